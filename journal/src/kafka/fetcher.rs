//! Whether the mended part of librdkafka is in use: see `build.rs`.

#[test]
fn the_mended_file_is_linked() {
    // What only the mended file says; in two pieces, so that this file does not say it.
    let mark = ["Fetch tells of", " %d leaders"].concat();
    let program = std::env::current_exe().expect("a test has a file");
    let program = std::fs::read(program).expect("it can be read");
    let found = program.windows(mark.len()).any(|bytes| bytes == mark.as_bytes());
    assert!(found, "librdkafka has its memory error");
}
