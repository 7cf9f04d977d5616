//! Whether the mended part of librdkafka is in use: see `build.rs`.

/// What only the mended file says.
const MARK: &[u8] = b"Fetch tells of %d leaders";

#[test]
fn the_mended_file_is_linked() {
    let program = std::env::current_exe().expect("a test has a file");
    let program = std::fs::read(program).expect("it can be read");
    // This one, and that of the file. Two of librdkafka's would not have linked.
    let found = program.windows(MARK.len()).filter(|bytes| *bytes == MARK).count();
    assert!(found >= 2, "librdkafka has its memory error: {found} found");
}
