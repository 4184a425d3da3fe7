"""A function that answers HTTP requests. `handle` is called once for each, in an instance of its own."""

import json

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


def answer(method: str, path: str) -> tuple[int, dict]:
    """The status and body for a request; begin here."""
    print(f"asked for {path}")
    return 200, {"hello": path, "method": method}


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        method = type(request.method()).__name__.removeprefix("Method_").upper()
        status, body = answer(method, request.path_with_query() or "/")
        response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
        response.set_status_code(status)
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with outgoing.write() as stream:
            data = json.dumps(body).encode()
            for begin in range(0, len(data), 4096):
                stream.blocking_write_and_flush(data[begin : begin + 4096])
        OutgoingBody.finish(outgoing, None)
