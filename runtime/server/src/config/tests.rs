//! Settings from text.

use super::*;

fn resolve(file: &str, args: &ServeArgs) -> Result<NodeConfig, Problems> {
    let mut settings = Settings::new(args);
    settings.read_file(Path::new("/etc/cloudlet/node.toml"), file);
    settings.resolve(args)
}

#[test]
fn defaults_are_whole() {
    let config = resolve("", &ServeArgs::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.domains, ["localhost"]);
    assert_eq!(config.storage.dir, Path::new("cloudlet-data/objects"));
    assert!(config.metrics_public);
    assert_eq!(config.trusted_proxies, loopback_networks());
    assert_eq!(config.rates.bounds, Rates::default());
}

#[test]
fn proxies_are_networks_and_rates_have_a_time() {
    let file = r#"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        [rates]
        total = "100/s burst 200"
    "#;
    let config = resolve(file, &ServeArgs::default()).unwrap();
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.rates.bounds.total, Rate::parse("100/s burst 200"));
    assert!(
        resolve("trusted_proxies = []", &ServeArgs::default())
            .unwrap()
            .trusted_proxies
            .is_empty()
    );
    for bad in ["trusted_proxies = [\"10.0.0.1/8\"]", "[rates]\nuser = \"20\""] {
        assert_eq!(
            resolve(bad, &ServeArgs::default()).unwrap_err().0.len(),
            1,
            "{bad}"
        );
    }
}

#[test]
fn flags_win_over_the_file() {
    let args = ServeArgs {
        listen: Some("127.0.0.1:9".into()),
        domains: vec!["Apps.Example.com".into()],
        ..ServeArgs::default()
    };
    let file = r#"
        listen = "127.0.0.1:1"
        admin_listen = "0.0.0.0:2"
        data_dir = "state"
        [limits]
        header_timeout = "250ms"
        body_bytes_max = "2MiB"
        connections_max = 7
    "#;
    let config = resolve(file, &args).unwrap();
    assert_eq!(config.listen.port(), 9);
    assert_eq!(config.data_dir, Path::new("/etc/cloudlet/state"));
    assert_eq!(config.limits.header_timeout, Duration::from_millis(250));
    assert_eq!(config.limits.body_bytes_max, 2 << 20);
    assert_eq!(config.limits.connections_max, 7);
    assert_eq!(config.domains, ["localhost", "apps.example.com"]);
    assert!(!config.metrics_public);
}

#[test]
fn all_problems_are_told_together() {
    let file = r#"
        listen = "here"
        colour = "red"
        workers = 0
        [limits]
        header_timeout = "soon"
        header_bytes = 3
        [tls]
        cert = "a.pem"
    "#;
    let problems = resolve(file, &ServeArgs::default()).unwrap_err().0;
    assert_eq!(problems.len(), 6, "{problems:#?}");
    for wanted in [
        "listen",
        "colour",
        "workers",
        "header_timeout",
        "header_bytes",
        "tls.key",
    ] {
        assert!(
            problems.iter().any(|p| p.contains(wanted)),
            "{wanted}: {problems:#?}"
        );
    }
}

#[test]
fn sizes_and_times_have_units() {
    assert_eq!(bytes("65536"), Ok(65536));
    assert_eq!(bytes("64 KiB"), Ok(65536));
    for bad in ["", "0", "1MB", "-1", "KiB", "99999999999GiB"] {
        assert!(bytes(bad).is_err(), "{bad}");
    }
    assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
    for bad in ["", "10", "0s", "s", "1.5s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}
