//! `import grafana`: Grafana's `ldap.toml`, and its ini file, become a configuration that our own `check` takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::server::{BINARY, Ran, run};
use crate::harness::{Server, tools};

const PASSWORD: &str = "hunter2-7Xq9ZvKw3Lm5";

/// What the printed configurations ask for.
const VARIABLES: [(&str, &str); 11] = [
    ("LDAP_BIND_PASSWORD", "a-long-password"),
    ("LDAP_BIND_DN", "cn=reader,dc=corp"),
    ("PUBLIC_URL", "https://keys.example.com"),
    ("GENERIC_OAUTH_CLIENT_SECRET", "a-secret-of-a-provider"),
    ("OKTA_CLIENT_SECRET", "a-secret-of-okta"),
    ("GITLAB_CLIENT_SECRET", "a-secret-of-gitlab"),
    ("AZURE_CLIENT_ID", "azure-client"),
    ("AZURE_CLIENT_SECRET", "a-secret-of-azure"),
    ("GITHUB_SECRET", "a-secret-of-github"),
    ("GOOGLE_SECRET", "another-secret-of-google"),
    ("BITBUCKET_API", "https://api.bitbucket.org/2.0/user"),
];

fn import(file: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(["import", "grafana"]).arg(file).args(more);
    run(command, "")
}

fn fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tools::root().join("tests/fixtures/grafana")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml" || extension == "ini"));
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    paths
}

/// Compares a text with the file; `UPDATE_FIXTURES=1` writes the file anew.
fn compare(found: &str, expected: &Path) {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(expected, found).unwrap();
    }
    let text = std::fs::read_to_string(expected).unwrap_or_default();
    assert!(text == found, "{}\nexpected:\n{text}\nfound:\n{found}", expected.display());
}

#[test]
fn every_file_becomes_what_stands_beside_it_and_check_takes_it() {
    for path in fixtures() {
        let ran = import(&path, &[]);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(!ran.stdout.contains(PASSWORD) && !ran.stderr.contains(PASSWORD), "{ran:?}");
        compare(&ran.stdout, &path.with_extension("yaml"));
        let (name, report) = ran.stderr.split_once('\n').unwrap();
        assert!(name.ends_with(" is imported.  What you should know:"), "{name}");
        compare(report, &path.with_extension("report"));

        let certificate = std::fs::read(tools::root().join("tests/fixtures/config/tls/ca.crt")).unwrap();
        let secret = tools::root().join("tests/fixtures/grafana/sample.toml");
        // The file of a secret need not be there while this is tried.
        let config = ran.stdout.replace("/run/secrets/ldap", secret.to_str().unwrap());
        let config = config.replace("/run/secrets/google", "client-secret");
        let setup = Server::with(&config).own_listeners();
        std::fs::write(setup.folder().join("ca.pem"), certificate).unwrap();
        let setup = setup.file("client-secret", "a-secret-of-google\n");
        let setup = VARIABLES.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
        let checked = setup.run(["check"]);
        assert_eq!(checked.code(), Some(0), "{}\n{checked:?}", ran.stdout);
    }
}

#[test]
fn what_cannot_be_imported_is_told_in_words_and_nothing_is_written() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("ldap.toml");
    let output = folder.path().join("config.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let into = ["--output", output.to_str().unwrap()];
    for (text, part) in [
        (format!("[[servers]]\nbind_password = '{PASSWORD}\n"), "line 2, column "),
        ("title = 'x'\n".to_owned(), "it has no [[servers]]"),
        ("[[servers]]\nport = 389\n".to_owned(), "servers[0].host: it is missing"),
        (format!("[auth.google]\nclient_secret = \"\"\"{PASSWORD}\n"), "line 2 is not valid in an ini file"),
        (format!("[auth.google]\n{PASSWORD}\n"), "line 2 is not valid in an ini file: expected `key = value`"),
        (format!("[auth.google]\nclient_secret = {PASSWORD}\n"), "auth.google: it is not enabled"),
        (format!("[auth.google]\nenabled = true\nclient_secret = {PASSWORD}\n"), "client_id: it is missing"),
        ("[server]\nroot_url = https://a.example\n".to_owned(), "it has no section for a provider"),
        (
            format!("[auth.google]\nenabled = 1\nclient_id = a\nclient_secret = {PASSWORD}\nhosted_domain = \"a\n"),
            "auth.google: hosted_domain: its quotes are not closed",
        ),
        (
            "[auth.google]\nenabled = 1\nclient_id = a\nrole_attribute_path = starts_with(email, 'a') && 'Admin' || 'None'\n"
                .to_owned(),
            "the people whom it excludes are not known",
        ),
        (
            "[auth.okta]\nenabled = 1\nclient_id = a\nauth_url = https://${HOST}/oauth2/v1/authorize\n".to_owned(),
            "auth.okta: auth_url: a variable inside other text",
        ),
        (
            "[auth.okta]\nenabled = 1\nclient_id = a\nauth_url = https://%(host)s/oauth2/v1/authorize\n".to_owned(),
            "auth.okta: auth_url: `%(…)s` names a key that",
        ),
        (
            "[auth.okta]\nenabled = 1\nclient_id = a\nauth_url = http://id.example.com/oauth2/v1/authorize\n".to_owned(),
            "cross the network in plain text",
        ),
    ] {
        write(&text);
        let ran = import(&file, &into);
        assert_eq!((ran.code(), output.exists()), (Some(1), false), "{ran:?}");
        let begins = format!("error: {} cannot be imported: ", file.display());
        assert!(ran.stderr.starts_with(&begins) && ran.stderr.contains(part), "{ran:?}");
        assert!(!ran.stderr.contains(PASSWORD) && ran.stdout.is_empty(), "{ran:?}");
    }
    let ran = import(&folder.path().join("none.toml"), &[]);
    assert!(ran.code() == Some(1) && ran.stderr.contains("No such file"), "{ran:?}");

    // A file that is there is not overwritten.
    let sample = &fixtures()[0];
    let ran = import(sample, &into);
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    assert!(std::fs::read_to_string(&output).unwrap().contains("\nldap:\n"));
    assert_eq!(import(sample, &into).code(), Some(1));
}
