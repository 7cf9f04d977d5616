//! Certificates that name what they may, and addresses where their servers listen.

use anabranch_bridge::identity::{Identity, IdentityFiles, issue_to_http_server, make_ca};
use anabranch_runtime::tls::doubles::TestAuthority;

use super::*;

/// A certificate for these hosts.
fn certified(hosts: &[&str]) -> Certified {
    let ca = make_ca(&"east".parse().unwrap()).unwrap();
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let Identity { certificate, .. } = issue_to_http_server(&ca, &hosts).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cert.pem");
    fs::write(&file, certificate).unwrap();
    Certified::read(&file)
}

#[test]
fn a_server_is_called_by_a_name_in_its_certificate() {
    let called = |hosts: &[&str], listening: &str| certified(hosts).url(listening.parse().unwrap());
    let cases: [(&[&str], &str, &str); 9] = [
        (&["127.0.0.1", "localhost"], "127.0.0.1:8080", "https://127.0.0.1:8080"),
        (&["::1"], "[::1]:443", "https://[::1]:443"),
        (&["db.example", "localhost"], "127.0.0.1:8080", "https://localhost:8080"),
        (&["db.example", "localhost"], "0.0.0.0:8080", "https://localhost:8080"),
        (&["localhost", "db.example"], "10.0.0.1:8080", "https://db.example:8080"),
        (&["*.example", "db.example"], "[::]:8080", "https://db.example:8080"),
        (&["10.0.0.1"], "0.0.0.0:8080", "https://10.0.0.1:8080"),
        (&["10.0.0.1"], "127.0.0.1:8080", "https://HOST:8080"),
        (&["*.example"], "127.0.0.1:8080", "https://HOST:8080"),
    ];
    for (hosts, listening, url) in cases {
        assert_eq!(called(hosts, listening), url, "{hosts:?} {listening}");
    }
}

#[test]
fn the_authority_is_named_where_it_is_known_and_else_left_to_fill_in() {
    let listening = "127.0.0.1:8080".parse().unwrap();
    let authority = TestAuthority::new("localhost");
    let certificate = authority.files().certificate;
    let steps = Certified::read(&certificate).steps(listening);
    let file = authority.file().display().to_string();
    let [export] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(*export, format!("export ANABRANCH_CA_FILE=\"{file}\" CURL_CA_BUNDLE=\"{file}\""));

    let other = TestAuthority::new("localhost");
    fs::copy(other.file(), authority.file()).unwrap();
    let fill_in = |steps: &[String]| {
        assert!(steps.iter().all(|step| step.starts_with("# ")), "{steps:?}");
        steps.iter().any(|step| step.ends_with("CURL_CA_BUNDLE=FILE"))
    };
    assert!(fill_in(&Certified::read(&certificate).steps(listening)), "it is another's");
    fs::remove_file(authority.file()).unwrap();
    assert!(fill_in(&Certified::read(&certificate).steps(listening)), "it is not there");

    let steps = certified(&["db.example"]).steps(listening);
    assert!(fill_in(&steps) && steps[0].contains("db.example"), "{steps:?}");
    let steps = Certified::read(&IdentityFiles::of_http_server(Path::new("none")).certificate);
    let steps = steps.steps(listening);
    assert!(fill_in(&steps) && steps[0].contains("HOST"), "{steps:?}");
}
