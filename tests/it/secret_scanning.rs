//! `deploy/secret-scanning`: scanners find our tokens, and nothing that is none; and what the documents say of the checksum.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{BINARY, Ran, run};
use crate::harness::tools;

const DOCUMENT: &str = include_str!("../../docs/secret-scanning.md");

fn file(name: &str) -> PathBuf {
    tools::root().join("deploy/secret-scanning").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn new_token() -> String {
    let mut command = Command::new(BINARY);
    command.args(["token", "new"]);
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    ran.stdout.trim_end().to_owned()
}

fn check(text: &str) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(["token", "check"]);
    run(command, text)
}

/// Texts that hold this token as people leave it behind.
fn leaks(token: &str) -> Vec<String> {
    vec![
        format!("{token}"),
        format!("export API_TOKEN={token}\n"),
        format!("token: \"{token}\"\n"),
        format!("{{\"key\":\"{token}\",\"id\":1}}"),
        format!("curl -H 'Authorization: Bearer {token}' https://app.example/\n"),
        format!("GET /x?_auth_token={token}&a=b HTTP/1.1\n"),
        format!("https://api_key:{token}@app.example/\n"),
        format!("+old_{token}\n"),
        format!("| ci | {token} |\n"),
    ]
}

/// Texts that hold no token.
fn others(token: &str) -> Vec<String> {
    vec![
        format!("{}\n", &token[..token.len() - 1]),
        format!("{token}a\n"),
        format!("gr{token}\n"),
        token.replacen("eat_", "eat-", 1),
        token.replacen("eat_", "EAT_", 1),
        format!("{}.{}\n", &token[..20], &token[20..]),
        "eat_more_vegetables_every_day_and_you_will_be_well_all_the_year\n".to_owned(),
    ]
}

/// Writes each text into a file of its own, and gives back their names in order.
fn write_samples(folder: &Path, texts: &[String]) -> Vec<String> {
    let write = |(index, text): (usize, &String)| {
        let name = format!("sample-{index:02}.txt");
        std::fs::write(folder.join(&name), text).unwrap();
        name
    };
    texts.iter().enumerate().map(write).collect()
}

#[test]
fn gitleaks_finds_every_token_and_nothing_else() {
    let folder = tempfile::TempDir::new().unwrap();
    let token = new_token();
    let (leaks, others) = (leaks(&token), others(&token));
    let names = write_samples(folder.path(), &[leaks.clone(), others].concat());
    let report = folder.path().join("report.json");
    let mut command = Command::new(tools::gitleaks());
    command.args(["dir", "--no-banner", "--report-format", "json", "--config"]).arg(file("gitleaks.toml"));
    command.arg("--report-path").arg(&report).arg(folder.path());
    let ran = run(command, "");
    // 1: there are leaks.
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let report: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    let ours = report.iter().filter(|finding| finding["RuleID"] == "envoy-auth-tokens");
    let mut found: Vec<_> = ours
        .map(|finding| {
            assert_eq!(finding["Secret"], token.as_str(), "{finding}");
            let path = Path::new(finding["File"].as_str().unwrap());
            path.file_name().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    found.sort();
    assert_eq!(found, names[..leaks.len()]);
    // Its own rules are in force beside it.
    let generic = report.iter().any(|finding| finding["RuleID"] != "envoy-auth-tokens");
    assert!(generic, "{report:#?}");
}

#[test]
fn githubs_pattern_finds_every_token_and_nothing_else() {
    let pattern = read("github.yaml");
    let member = |name: &str| {
        let line = pattern.lines().find_map(|line| line.strip_prefix(&format!("{name}: '"))).unwrap();
        line.strip_suffix('\'').unwrap().to_owned()
    };
    let expression = format!(
        "(?:{})(?:{})(?:{})",
        member("before_secret"),
        member("secret_format"),
        member("after_secret")
    );
    // Whether each line of standard input, which is JSON, matches.
    let script = "import hyperscan, json, sys
database = hyperscan.Database()
database.compile(expressions=[sys.argv[1].encode()], flags=[hyperscan.HS_FLAG_SINGLEMATCH])
for line in sys.stdin:
    found = []
    database.scan(json.loads(line).encode(), match_event_handler=lambda *match: found.append(match))
    print(bool(found))
";
    let token = new_token();
    let mut texts = leaks(&token);
    texts.push(member("test_string"));
    let leaks = texts.len();
    texts.extend(others(&token));
    let mut command = tools::python_with("hyperscan");
    command.args(["-c", script, &expression]);
    let input: String = texts.iter().map(|text| format!("{}\n", Value::from(text.as_str()))).collect();
    let ran = run(command, &input);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let found: Vec<bool> = ran.stdout.lines().map(|line| line == "True").collect();
    let expected: Vec<bool> = (0..texts.len()).map(|index| index < leaks).collect();
    assert_eq!(found, expected, "{texts:#?}");
}

#[test]
fn trufflehog_has_the_expression_that_gitleaks_runs() {
    let (gitleaks, trufflehog) = (read("gitleaks.toml"), read("trufflehog.yaml"));
    let gitleaks = gitleaks.lines().find_map(|line| line.strip_prefix("regex = '''")).unwrap();
    let gitleaks = gitleaks.strip_suffix("'''").unwrap();
    let trufflehog = trufflehog.lines().find_map(|line| line.strip_prefix("    token: '")).unwrap();
    assert_eq!(trufflehog.strip_suffix('\'').unwrap(), gitleaks);
}

#[test]
fn token_check_tells_our_tokens_by_their_checksum() {
    let token = new_token();
    let sample = read("github.yaml");
    let sample =
        sample.lines().find_map(|line| line.strip_prefix("test_string: 'Authorization: Bearer ")).unwrap();
    for text in [token.clone(), format!("{token}\n"), sample.trim_end_matches('\'').to_owned()] {
        let ran = check(&text);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains("the prefix eat and a correct checksum"), "{ran:?}");
        assert!(!format!("{ran:?}").contains(text.trim_end()), "{ran:?}");
    }
    let last = if token.ends_with('0') { '1' } else { '0' };
    let mistyped = format!("{}{last}", &token[..token.len() - 1]);
    for (text, part) in [
        (mistyped.as_str(), "its checksum is wrong"),
        (&token[..token.len() - 1], "expected a prefix such as eat, then _ and 38 letters and digits"),
        ("hunter2", "expected a prefix"),
        ("two words", "expected a prefix"),
        ("zoë", "expected a prefix"),
    ] {
        let ran = check(text);
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(3), ""), "{ran:?}");
        assert!(ran.stdout.contains(part) && !ran.stdout.contains(text), "{ran:?}");
    }
    let large = "a".repeat(3 << 20);
    for (text, part) in
        [(&b""[..], "is empty"), (b"\xff\xfe", "is not UTF-8"), (large.as_bytes(), "is larger than")]
    {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("found.txt");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "\"$0\" token check < \"$1\"", BINARY]).arg(&path);
        let ran = run(command, "");
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(3), ""), "{part}: {ran:?}");
        assert!(
            ran.stdout.starts_with("This is not a token in the format of envoy-auth-tokens")
                && ran.stdout.contains(part),
            "{ran:?}"
        );
    }
}

#[test]
fn the_checksum_in_the_documents_is_the_one_of_our_tokens() {
    let (_, after) = DOCUMENT.split_once("```python\n").unwrap();
    let (source, _) = after.split_once("```").unwrap();
    let (_, format) = DOCUMENT.split_once("## The format\n\n```\n").unwrap();
    let sample = format.lines().next().unwrap();
    let token = new_token();
    let last = if token.ends_with('0') { '1' } else { '0' };
    let mistyped = format!("{}{last}", &token[..token.len() - 1]);
    let mut command = Command::new("python3");
    let script =
        format!("{source}\nimport sys\nprint([has_right_checksum(token) for token in sys.argv[1:]])");
    command.args(["-c", &script, &token, sample, &mistyped]);
    assert_eq!(run(command, "").stdout, "[True, True, False]\n");
    assert_eq!(check(sample).code(), Some(0));
}
