use std::io;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn body(chunks: Vec<Bytes>) -> Body {
    Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, io::Error>)))
}

/// Limits of one body, and of all together.
fn limits(max_body_bytes: usize, max_buffered_bytes: usize) -> Limits {
    Limits::new(&IngestConfig { max_body_bytes, max_buffered_bytes, ..IngestConfig::default() })
}

fn length(bytes: usize) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_LENGTH, bytes.into())])
}

#[tokio::test]
async fn a_promise_takes_no_memory() {
    let limits = limits(1 << 20, 1 << 20);
    let promised = Body::from_stream(stream::pending::<io::Result<Bytes>>());
    let headers = length(1 << 20);
    let idle = limits.read(&headers, promised, soon());
    let other = async {
        tokio::task::yield_now().await;
        limits.read(&headers, body(vec![vec![b'x'; 1 << 20].into()]), soon()).await
    };
    tokio::select! {
        biased;
        _ = idle => unreachable!("nothing comes"),
        whole = other => assert_eq!(whole.unwrap().bytes.len(), 1 << 20),
    }
}

#[tokio::test]
async fn small_chunks_take_the_memory_that_they_fill() {
    let limits = limits(128 << 10, 128 << 10);
    let chunks = vec![Bytes::from_static(&[b'x'; 8]); 16 << 10];
    let whole = limits.read(&HeaderMap::new(), body(chunks), soon()).await.unwrap();
    assert_eq!(whole.bytes.len(), 128 << 10);
    assert_eq!(limits.reserve(1).unwrap_err().code(), Code::Overloaded);
    drop(whole);
    assert!(limits.reserve(128 << 10).is_ok());
}

#[tokio::test]
async fn a_deadline_is_not_called_a_pause() {
    let limits = Limits::new(&IngestConfig::default());
    let pending = || Body::from_stream(stream::pending::<io::Result<Bytes>>());
    let soon = Instant::now() + Duration::from_millis(5);
    let refusal = limits.read(&HeaderMap::new(), pending(), soon).await.err().unwrap();
    assert_eq!(refusal.code(), Code::RequestTimeout);
    assert!(refusal.message().contains("deadline"), "{refusal}");
}

#[test]
fn who_trickles_has_less_and_less_time() {
    let second = Duration::from_secs(1);
    let mut pace = Pace { pause: 30 * second, left: 30 * second, bytes: 0 };
    for waited in 1..=20 {
        pace.arrived(1, second);
        assert_eq!(pace.left, (30 - waited) * second);
    }
    pace.arrived(PACE_BYTES, second);
    assert_eq!((pace.left, pace.bytes), (30 * second, 0));
}

#[tokio::test]
async fn a_load_that_trickles_is_given_up() {
    let config = IngestConfig { body_idle_timeout_ms: 50, ..IngestConfig::default() };
    let trickle = stream::unfold((), |()| async {
        // Far shorter than the pause that is allowed, however slow this machine is.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Some((Ok::<_, io::Error>(Bytes::from_static(b" ")), ()))
    });
    let mut chunks =
        Limits::new(&config).chunks(&HeaderMap::new(), Body::from_stream(trickle)).unwrap();
    let refusal = loop {
        if let Err(refusal) = chunks.next().await.expect("it does not end") {
            break refusal;
        }
    };
    assert_eq!(refusal.code(), Code::RequestTimeout);
}

/// The usual limits in little, with so much memory for all bodies.
fn small(max_buffered_bytes: usize) -> Limits {
    limits(64 << 10, max_buffered_bytes)
}

async fn read(limits: &Limits, text: &str) -> Result<Whole, Refusal> {
    let chunks = text.as_bytes().chunks(1_000).map(Bytes::copy_from_slice).collect();
    limits.read(&length(text.len()), body(chunks), soon()).await
}

fn zeros(count: usize) -> String {
    format!("[0{}]", ",0".repeat(count - 1))
}

#[tokio::test]
async fn a_body_takes_what_its_values_take() {
    let (limits, zeros) = (small(1 << 20), zeros(4 << 10));
    let mut held = Vec::new();
    for _ in 0..16 {
        match read(&limits, &zeros).await {
            Ok(whole) => held.push(whole),
            Err(refusal) => assert_eq!(refusal.code(), Code::Overloaded),
        }
    }
    let taken = zeros.len() + (4 << 10) * size_of::<Value>();
    assert!((1..=(1 << 20) / taken).contains(&held.len()), "{} are held", held.len());
    // Also when only their bytes are left: a body is parsed to the end if nobody waits any more.
    let mut parsed: Vec<_> = held.into_iter().map(|whole| whole.bytes).collect();
    assert_eq!(limits.reserve(1 << 20).unwrap_err().code(), Code::Overloaded);
    parsed.clear();
    assert!(limits.reserve(1 << 20).is_ok());
}

#[tokio::test]
async fn a_body_that_takes_more_than_there_is_is_told_so() {
    let limits = small(512 << 10);
    let refusal = read(&limits, &zeros(30 << 10)).await.err().unwrap();
    assert_eq!(refusal.code(), Code::BodyTooLarge);
    let expected = "the body has too many values: parsed it would take more memory than the 524288 bytes \
        that all bodies may have together";
    assert_eq!(refusal.message(), expected);
    assert!(limits.reserve(512 << 10).is_ok(), "nothing is kept of it");
}

#[tokio::test]
async fn usual_bodies_are_not_refused() {
    let limits = small(1 << 20);
    let text = format!(r#"{{"args":{{"text":"{}"}}}}"#, r#"{[(\"so: it is\"), "#.repeat(3_000));
    let field = |number: usize| format!(r#""field_{number}":"some text {number}""#);
    let fields: Vec<_> = (0..12).map(field).collect();
    let document = format!("{{{}}}", fields.join(","));
    let documents = format!("[{}]", vec![document; 180].join(","));
    let mut held = Vec::new();
    for body in [text, documents] {
        assert!((48 << 10..64 << 10).contains(&body.len()), "{} bytes", body.len());
        for _ in 0..2 {
            held.push(read(&limits, &body).await.unwrap());
        }
    }
}

/// What the values of a body count, in chunks of so many bytes.
fn counted(text: &str, length: usize) -> usize {
    let mut values = Values::default();
    text.as_bytes().chunks(length).for_each(|chunk| values.arrived(chunk));
    values.bytes
}

#[test]
fn values_are_counted_however_a_body_is_cut() {
    let text = r#"{"a[{:,\"":[1,-2.5,"\\"],"b":{"c":null}}"#;
    let (list, map) = (4 * size_of::<Value>(), 11 * (size_of::<String>() + size_of::<Value>()));
    // The commas are one between fields and two between items; the one in a text is none of them.
    let marks = 3 * size_of::<Value>() + 3 * size_of::<String>() + 4 * TEXT_BYTES;
    let expected = marks + list + 2 * map;
    for length in 1..=text.len() {
        assert_eq!(counted(text, length), expected, "in chunks of {length}");
    }
}

#[test]
fn each_short_string_counts_with_what_it_takes_on_the_heap() {
    let count = 1_000;
    let strings = format!("[{}]", vec![r#""a""#; count].join(","));
    let least = count * (size_of::<Value>() + 32);
    for length in [1, 1_000, strings.len()] {
        let counted = counted(&strings, length);
        assert!(counted >= least, "{counted} is less than {least}");
    }
}

#[test]
fn commas_in_a_text_count_if_it_is_a_statement() {
    let statements = [
        r#"{"statement":"TEXT"}"#,
        r#"{"a": 1, "statement" : "TEXT", "args": {"b": "c"}}"#,
        r#"{"statements":[{"statement":"a"},{"args":{"b":"c"},"statement":"\"TEXT"}]}"#,
        r#"{"st\u0061tement":"TEXT"}"#,
    ];
    let others = [
        r#"{"statement":"a","args":{"b":"TEXT"}}"#,
        r#"{"statement":1,"TEXT":"a"}"#,
        r#"{"statements":"TEXT"}"#,
        r#"{"state":"TEXT"}"#,
        r#"{"a statement":"TEXT"}"#,
        r#"{"":"TEXT"}"#,
        r#"{"a\"":"TEXT"}"#,
        r#"{"args":{"b":["statement","TEXT"]}}"#,
    ];
    for (bodies, comma) in [(&statements[..], size_of::<Value>()), (&others[..], 0)] {
        for body in bodies {
            let (commas, plain) = (body.replace("TEXT", ",,,"), body.replace("TEXT", "xxx"));
            for length in [1, 2, 7, body.len()] {
                let expected = counted(&plain, length) + 3 * comma;
                assert_eq!(counted(&commas, length), expected, "{body} in chunks of {length}");
            }
        }
    }
}
