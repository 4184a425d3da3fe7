"""A pytest plugin: writes one line a test, OUTCOME TAB CLASS::TEST TAB WHY, to the file that OUTCOMES names."""

import os

RANK = {"passed": 0, "skipped": 1, "failed": 2}
seen = {}


def pytest_runtest_logreport(report):
    name = report.nodeid.split("::", 1)[1]
    outcome = report.outcome
    why = ""
    if outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message if crash else report.longrepr)
    elif outcome == "skipped" and isinstance(report.longrepr, tuple):
        why = report.longrepr[2]
    if RANK[outcome] >= RANK[seen.get(name, ("passed", ""))[0]]:
        seen[name] = (outcome, " ".join(why.split())[:300])


def pytest_sessionfinish(session, exitstatus):
    with open(os.environ["OUTCOMES"], "w") as file:
        for name, (outcome, why) in sorted(seen.items()):
            file.write(f"{outcome}\t{name}\t{why}\n")
