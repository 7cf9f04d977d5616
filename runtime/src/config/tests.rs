use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    listen: String,
    name: Option<String>,
    limit: u32,
    verbose: bool,
    mode: Mode,
    peers: Vec<String>,
    ingest: Ingest,
    kafka: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ingest {
    max_body_bytes: u64,
    lanes: usize,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    Plain,
    WithBridge,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    #[serde(rename = "cluster")]
    _cluster: String,
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Settings, ConfigError> {
    Layers::new().file(file(text).path())?.load()
}

#[test]
fn flags_go_over_the_environment_which_goes_over_the_file() {
    let file = file(
        "listen = 'file'\nlimit = 1\nname = 'file'\n[ingest]\nlanes = 1\nmax_body_bytes = 1\n",
    );
    let environment = variables(&[
        ("ANABRANCH_LIMIT", "2"),
        ("ANABRANCH_NAME", "2024"),
        ("ANABRANCH_INGEST__LANES", "2"),
        ("ANABRANCH_MODE", "with-bridge"),
        ("ANABRANCH_PEERS", "a:1, b:2"),
        ("ANABRANCH_LISTEN", ""),
        ("HOME", "/"),
    ]);
    let settings: Settings = Layers::new()
        .file(file.path())
        .unwrap()
        .environment("ANABRANCH_", &[], environment)
        .flag("--lanes", &["ingest", "lanes"], "3")
        .flag("--verbose", &["verbose"], "true")
        .load()
        .unwrap();
    let expected = Settings {
        listen: "file".into(),
        name: Some("2024".into()),
        limit: 2,
        verbose: true,
        mode: Mode::WithBridge,
        peers: vec!["a:1".into(), "b:2".into()],
        ingest: Ingest { max_body_bytes: 1, lanes: 3 },
        kafka: BTreeMap::new(),
    };
    assert_eq!(settings, expected);
}

#[test]
fn a_repeated_flag_is_a_list_and_its_items_may_have_commas() {
    let peers = vec!["a,b".to_owned(), "c".to_owned()];
    let settings: Settings =
        Layers::new().flags("--peer", &["peers"], peers.clone()).load().unwrap();
    assert_eq!(settings.peers, peers);
}

#[test]
fn an_unknown_setting_is_told_with_its_place_and_the_nearest_known_one() {
    let error = from_file("[ingest]\nmax_bodybytes = 1\n").unwrap_err().to_string();
    assert!(error.starts_with("unknown setting 'ingest.max_bodybytes' in '"), "{error}");
    assert!(error.ends_with("'; did you mean 'max_body_bytes'?"), "{error}");

    let error = Layers::new()
        .environment("ANABRANCH_", &["HOME"], variables(&[("ANABRANCH_HOME", "/")]))
        .environment("ANABRANCH_", &[], variables(&[("ANABRANCH_LISTN", "x")]))
        .load::<Settings>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting 'listn' in environment variable ANABRANCH_LISTN; did you mean 'listen'?"
    );
    let error = from_file("zzz = 1").unwrap_err().to_string();
    assert!(error.contains("the nearest known one is"), "{error}");
}

#[test]
fn a_wrong_value_is_told_with_its_place() {
    let error = from_file("limit = 'many'").unwrap_err().to_string();
    assert!(error.starts_with("setting 'limit' in '"), "{error}");
    assert!(error.contains("expected u32"), "{error}");
    let error =
        Layers::new().flag("--limit", &["limit"], "-1").load::<Settings>().unwrap_err().to_string();
    assert!(error.starts_with("setting 'limit' in --limit: invalid value"), "{error}");
    let error = from_file("ingest = 3").unwrap_err().to_string();
    assert!(error.contains("a table of settings, not integer 3"), "{error}");
    let error = Layers::new().load::<Strict>().unwrap_err().to_string();
    assert_eq!(error, "setting 'cluster': it is required but not set");
    assert!(matches!(from_file("limit = "), Err(ConfigError::Syntax { .. })));
    let missing = Layers::new().file(Path::new("/nowhere/at.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("read settings from '/nowhere/at.toml'"), "{missing}");
}

#[test]
fn properties_have_dotted_names_and_text_for_values() {
    let file = file("[kafka]\n'bootstrap.servers' = 'file:1'\nlinger.ms = 5\nclient.id = 'file'\n");
    let environment =
        variables(&[("ANABRANCH_KAFKA", "env:2"), ("ANABRANCH_KAFKA__CLIENT_ID", "env")]);
    let kafka = Layers::new()
        .properties("kafka", "bootstrap.servers")
        .file(file.path())
        .unwrap()
        .environment("ANABRANCH_", &[], environment)
        .flag("--kafka-property", &["kafka", "check.crcs"], "true")
        .load::<Settings>()
        .unwrap()
        .kafka;
    let expected = [
        ("bootstrap.servers", "env:2"),
        ("check.crcs", "true"),
        ("client.id", "env"),
        ("linger.ms", "5"),
    ];
    let found: Vec<_> = kafka.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn secrets_are_masked() {
    let mut settings = Settings { listen: "here".into(), ..Settings::default() };
    settings.kafka.insert("sasl.password".into(), "hunter2".into());
    settings.kafka.insert("ssl.key.pem".into(), "hunter2".into());
    settings.kafka.insert("sasl.username".into(), "ann".into());
    let text = dump(&settings).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("listen = \"here\""), "{text}");
    assert!(text.contains("\"sasl.username\" = \"ann\""), "{text}");
    assert_eq!(text.matches(MASK).count(), 2, "{text}");
}
