//! Mends librdkafka's memory error in what a fetch tells of new leaders
//! (<https://github.com/confluentinc/librdkafka/issues/5280>, in 2.12.1 and up to now).
//!
//! A broker that is starting answers one fetch with a leader for some partitions of a topic and
//! with none for others. librdkafka makes room for all of them, fills in those that have one, and
//! then reads all: it takes what lies in memory for partitions and writes to where they point.
//! Processes that read died of it after a broker was killed.
//!
//! The one file is compiled again with the missing line and linked before librdkafka's own archive,
//! of which the linker then does not take that member. This fails when a newer version of the file
//! no longer looks as expected: see then whether the line is still needed.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Stands once in the file, after the partitions of a topic were filled in.
const BEFORE: &str =
    "                        changed_topic++;\n                }\n\n                rko = ";

/// The message is how a test finds that this file was linked; see `src/kafka/fetcher.rs`.
const MENDED: &str =
    "                        md->topics[changed_topic].partition_cnt = changed_partition;
                        rd_rkb_dbg(rkb, METADATA, \"METADATAUPDATE\",
                                   \"Fetch tells of %d leaders\", changed_partition);
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let librdkafka = variable("DEP_RDKAFKA_ROOT").expect("rdkafka-sys says where it was built");
    let out = variable("OUT_DIR").expect("cargo says where to build");
    let source = librdkafka.join("src/rdkafka_fetcher.c");
    let mended = mended(&source);
    let copy = out.join("rdkafka_fetcher.c");
    fs::write(&copy, mended).expect("write into the build's own directory");
    let mut build = cc::Build::new();
    build.file(copy).include(librdkafka.join("src")).opt_level(2).warnings(false);
    if let Some(openssl) = variable("DEP_OPENSSL_INCLUDE") {
        build.include(openssl);
    }
    build.cargo_metadata(false).compile("anabranch_fetcher");
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=anabranch_fetcher");
}

fn mended(source: &Path) -> String {
    let text = fs::read_to_string(source)
        .unwrap_or_else(|error| panic!("read {}: {error}", source.display()));
    assert_eq!(text.matches(BEFORE).count(), 1, "{} is not as it was in 2.12.1", source.display());
    text.replacen(BEFORE, &format!("{MENDED}{BEFORE}"), 1)
}
