//! `completions` and `man`: what a shell and a reader of manuals get.

use std::process::Command;

use crate::harness::server::{BINARY, Ran, run};

fn binary(arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    run(command, "")
}

#[test]
fn bash_takes_the_script_and_completes_our_words() {
    let script = binary(&["completions", "bash"]);
    assert_eq!(script.code(), Some(0), "{script:?}");
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("completions.bash");
    std::fs::write(&path, &script.stdout).unwrap();
    let mut bash = Command::new("bash");
    bash.arg("-n").arg(&path);
    let checked = run(bash, "");
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");

    // What the shell does when somebody presses Tab behind the last word.
    let complete = |words: &str| {
        let ask = format!(
            "source {}\n\
             words=({words}); COMP_WORDS=(\"${{words[@]}}\"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             how=$(complete -p envoy-auth-tokens); [[ $how =~ -F\\ ([^ ]+) ]]\n\
             \"${{BASH_REMATCH[1]}}\" envoy-auth-tokens \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"\n",
            path.display()
        );
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-c", &ask]);
        let ran = run(bash, "");
        assert!(ran.status.success(), "{ran:?}");
        ran.stdout.trim().to_owned()
    };
    assert_eq!(complete("envoy-auth-tokens expl"), "explain");
    assert_eq!(complete("envoy-auth-tokens import da"), "datasette");
    assert_eq!(complete("envoy-auth-tokens envoy --part clu"), "cluster");
    assert!(complete("envoy-auth-tokens ''").contains("completions"));
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = binary(&["completions", shell]);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains("envoy-auth-tokens") && ran.stdout.contains("explain"), "{shell}");
    }
    assert_eq!(binary(&["completions", "tcsh"]).code(), Some(2));
}

/// The page as somebody reads it, where groff is installed; else its source.
fn rendered(page: &str) -> String {
    for line in page.lines() {
        let is_request = line.strip_prefix('.').is_none_or(|request| {
            [
                ".TH", ".SH", ".SS", ".TP", ".RS", ".RE", ".PP", ".br", ".ie", ".el", ".ds", ".nf", ".fi",
                ".P", ".IP", ".B", ".sp",
            ]
            .iter()
            .any(|known| format!(".{request} ").starts_with(&format!("{known} ")))
        });
        assert!(is_request || line.starts_with(".\\\""), "{line}");
    }
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-Tutf8", "-P-c", "-rLL=100n"]);
    if Command::new("groff").arg("--version").output().is_err() {
        eprintln!("groff is not installed: the page's form is checked, its looks are not");
        return page.replace("\\-", "-");
    }
    let ran = run(groff, page);
    assert!(ran.status.success() && ran.stderr.is_empty(), "{}", ran.stderr);
    // Bold is written by striking a letter twice.
    let mut text = String::new();
    for character in ran.stdout.chars() {
        if character == '\u{8}' {
            text.pop();
        } else {
            text.push(character);
        }
    }
    text.replace(['\u{2010}', '\u{2212}'], "-")
}

#[test]
fn the_manual_has_every_command_on_one_page_or_on_pages_of_their_own() {
    let page = binary(&["man"]);
    assert_eq!(page.code(), Some(0), "{page:?}");
    let text = rendered(&page.stdout);
    let commands = [
        "serve",
        "check",
        "explain",
        "token new",
        "keys rotate",
        "keys backup",
        "envoy",
        "import datasette",
        "schema",
        "completions",
        "man",
    ];
    for words in commands.into_iter().chain(["--datasette-guards-sql", "--drain", "ENVOY_AUTH_TOKENS_CONFIG"])
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(!text.contains("--help-"), "{text}");

    let folder = tempfile::TempDir::new().unwrap();
    let pages = folder.path().join("man1");
    let ran = binary(&["man", "--out-dir", pages.to_str().unwrap()]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    for words in commands {
        let name = format!("envoy-auth-tokens-{}.1", words.replace(' ', "-"));
        let page =
            std::fs::read_to_string(pages.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(rendered(&page).contains("NAME"), "{name}");
    }
    assert!(pages.join("envoy-auth-tokens.1").exists());
    assert!(!pages.join("envoy-auth-tokens-help.1").exists());
    let ran = binary(&["man", "--out-dir", "/dev/null/man"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr.contains("/dev/null/man"), "{ran:?}");
}
