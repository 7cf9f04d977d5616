//! What is read from files, and what is not.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::doubles::TestAuthority;
use super::*;

#[test]
fn what_cannot_be_shown_is_refused_with_the_file_that_is_wrong() {
    let (east, west) = (TestAuthority::new("localhost"), TestAuthority::new("localhost"));
    let CertificateFiles { certificate, key } = east.files();
    let refused = |certificate: &Path, key: &Path| {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        ServedCertificate::open(CertificateFiles { certificate, key }).unwrap_err()
    };
    let missing = certificate.with_file_name("none");
    let error = refused(&missing, &key).to_string();
    assert!(error.starts_with("read certificates from ") && error.contains("none'"), "{error}");
    let error = refused(&certificate, &missing).to_string();
    assert!(error.starts_with("read unencrypted private key"), "{error}");
    let error = refused(&key, &key).to_string();
    assert!(error.starts_with("no certificates in ") && error.ends_with("key.pem'"), "{error}");
    let error = refused(&certificate, &certificate).to_string();
    assert!(
        error.starts_with("no unencrypted private key") && error.ends_with("cert.pem'"),
        "{error}"
    );
    let error = refused(&certificate, &west.files().key);
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let error = refused(&certificate, &key);
    assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
}

#[test]
fn one_that_has_expired_is_shown_until_there_is_a_better_one() {
    let authority = TestAuthority::new("localhost");
    let past = SystemTime::now() - Duration::from_secs(60);
    authority.issue_until("localhost", past);
    let served = ServedCertificate::open(authority.files()).unwrap();
    let first = served.config();
    // Another that has expired is no better.
    authority.issue_until("localhost", past);
    served.look();
    assert!(Arc::ptr_eq(&served.config(), &first));
    authority.issue("localhost");
    served.look();
    assert!(!Arc::ptr_eq(&served.config(), &first));
}

#[test]
fn one_that_is_not_valid_yet_waits_for_its_time() {
    let authority = TestAuthority::new("localhost");
    let served = ServedCertificate::open(authority.files()).unwrap();
    let first = served.config();
    let hours = |count: u64| Duration::from_secs(count * 60 * 60);
    let begin = SystemTime::now() + hours(1);
    authority.issue_from_until("localhost", begin, begin + hours(24));
    for _ in 0..3 {
        served.look();
        assert!(Arc::ptr_eq(&served.config(), &first));
    }
    // The files are as they were, and it is later.
    let later = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap() + hours(1);
    served.look_at(i64::try_from(later.as_secs()).unwrap());
    let second = served.config();
    assert!(!Arc::ptr_eq(&second, &first));
    served.look();
    assert!(Arc::ptr_eq(&served.config(), &second), "nothing has changed since");
    // Where there is no other it is shown.
    ServedCertificate::open(authority.files()).unwrap();
}

#[test]
fn a_renewal_that_is_half_done_is_told_only_if_it_stays_so() {
    let authority = TestAuthority::new("localhost");
    let files = authority.files();
    let served = ServedCertificate::open(files.clone()).unwrap();
    let first = served.config();
    let old = fs::read(&files.certificate).unwrap();
    authority.issue("localhost");
    let new = fs::read(&files.certificate).unwrap();
    // The key is there before its certificate.
    fs::write(&files.certificate, &old).unwrap();
    assert!(served.look(), "it may be half done");
    fs::write(&files.certificate, &new).unwrap();
    assert!(!served.look());
    let second = served.config();
    assert!(!Arc::ptr_eq(&second, &first));

    fs::write(&files.certificate, &old).unwrap();
    assert!(served.look(), "it may be half done");
    assert!(!served.look(), "it is told");
    assert!(!served.look(), "it was told");
    // Something else is wrong then.
    fs::remove_file(&files.certificate).unwrap();
    assert!(served.look(), "it may be half done");
    assert!(Arc::ptr_eq(&served.config(), &second));
}

#[test]
fn a_file_that_is_away_for_a_moment_renews_nothing() {
    let authority = TestAuthority::new("localhost");
    let files = authority.files();
    let served = ServedCertificate::open(files.clone()).unwrap();
    let first = served.config();
    let key = fs::read(&files.key).unwrap();
    for looks in 1..4 {
        fs::remove_file(&files.key).unwrap();
        for _ in 0..looks {
            served.look();
        }
        fs::write(&files.key, &key).unwrap();
        assert!(!served.look());
        assert!(Arc::ptr_eq(&served.config(), &first), "it is the same as before");
    }
}

#[test]
fn only_a_good_pair_takes_the_place_of_another() {
    let (authority, other) = (TestAuthority::new("localhost"), TestAuthority::new("localhost"));
    let files = authority.files();
    let served = ServedCertificate::open(files.clone()).unwrap();
    let first = served.config();
    let is_first = || {
        served.look();
        Arc::ptr_eq(&served.config(), &first)
    };
    assert!(is_first());
    let kept = fs::read(&files.key).unwrap();
    fs::copy(other.files().key, &files.key).unwrap();
    assert!(is_first(), "the key is another's");
    fs::write(&files.key, "nothing").unwrap();
    assert!(is_first(), "there is no key");
    fs::remove_file(&files.key).unwrap();
    assert!(is_first(), "there is no file");
    fs::write(&files.key, kept).unwrap();
    authority.issue("localhost");
    assert!(!is_first(), "they are new and good");
    let second = served.config();
    served.look();
    assert!(Arc::ptr_eq(&served.config(), &second), "nothing has changed since");
}

#[test]
fn the_cause_is_found_in_errors_around_it() {
    let tls = rustls::Error::NoCertificatesPresented;
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls.clone()));
    assert_eq!(cause(&wrapped), Some(&tls));
    assert_eq!(cause(&io::Error::from(io::ErrorKind::NotFound)), None);
    let context = TlsError::Certificate { path: PathBuf::new(), source: tls.clone() };
    assert_eq!(cause(&context), Some(&tls));
}

#[test]
fn a_client_without_an_authority_trusts_nobody() {
    let authority = TestAuthority::new("localhost");
    let empty = authority.file().with_file_name("empty");
    fs::write(&empty, "").unwrap();
    let error = http_client_config(Trust::Authorities(&empty)).unwrap_err().to_string();
    assert!(error.starts_with("no trusted certificates in "), "{error}");
    http_client_config(Trust::Authorities(&authority.file())).unwrap();
    http_client_config(Trust::Nobody).unwrap();
}
