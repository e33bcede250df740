use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

use super::*;

fn files(dir: &Path) -> TlsFiles {
    TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None }
}

/// A certificate that is its own authority, and its key, in PEM.
fn own(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn files_that_can_not_be_used_are_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let error = |files: &TlsFiles| Tls::open(files.clone()).err().expect("an error").to_string();
    let text = error(&files);
    assert!(text.contains("--tls-cert") && text.contains("cert.pem") && text.contains("No such file"), "{text}");

    let (certificate, key) = own("a.example");
    fs::write(&files.certificate, "garbage").unwrap();
    fs::write(&files.key, &certificate).unwrap();
    let text = error(&files);
    assert!(text.contains("--tls-cert") && text.contains("no certificate in PEM form"), "{text}");
    fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nMIIB!!\n-----END CERTIFICATE-----\n").unwrap();
    assert!(error(&files).contains("no certificate in PEM form"));
    fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(&files.key, &key).unwrap();
    assert!(error(&files).contains("can't be used together"), "{}", error(&files));

    fs::write(&files.certificate, &certificate).unwrap();
    fs::write(&files.key, &certificate).unwrap();
    let text = error(&files);
    assert!(text.contains("--tls-key") && text.contains("no private key in PEM form"), "{text}");
    fs::write(&files.key, own("b.example").1).unwrap();
    let text = error(&files);
    assert!(text.contains("can't be used together") && text.contains("key.pem"), "{text}");
    assert!(!text.contains("BEGIN"), "no key in a message");

    fs::write(&files.key, &key).unwrap();
    assert!(Tls::open(files.clone()).is_ok());
    let with_authority = TlsFiles { client_ca: Some(files.key.clone()), ..files.clone() };
    assert!(error(&with_authority).contains("--tls-client-ca"), "{}", error(&with_authority));
    let with_authority = TlsFiles { client_ca: Some(files.certificate.clone()), ..files };
    assert!(Tls::open(with_authority).is_ok());
}

#[test]
fn changed_files_are_read_again_and_broken_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let write = |(certificate, key): (String, String)| {
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
    };
    write(own("a.example"));
    let tls = Tls::open(files.clone()).unwrap();
    let look = || {
        tls.look(&mut tls.current.lock().unwrap());
        Arc::clone(&tls.current.lock().unwrap().config)
    };
    let first = look();
    assert!(Arc::ptr_eq(&first, &look()), "nothing has changed");
    fs::write(&files.key, "garbage").unwrap();
    assert!(Arc::ptr_eq(&first, &look()), "the former one stays");
    write(own("another.example"));
    let second = look();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&second, &look()));
}

#[test]
fn the_names_of_a_certificate_are_its_common_name_and_the_alternatives() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["web-1.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, "orders");
    params.subject_alt_names.push(SanType::Rfc822Name("ops@example.org".try_into().unwrap()));
    params.subject_alt_names.push(SanType::URI("spiffe://example/orders".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
    let certificate = params.self_signed(&key).unwrap();
    let names = names(certificate.der());
    assert_eq!(names.common_name.as_deref(), Some("orders"));
    assert_eq!(names.alternative_names, ["web-1.example", "ops@example.org", "spiffe://example/orders"]);
    assert_eq!(super::names(&CertificateDer::from(vec![0x30, 0x00])), CertificateNames::default());
}
