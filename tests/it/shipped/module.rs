//! The images of the module: built as an operator builds them, the second one on an image of ours that holds Envoy.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::storage::Storage;
use crate::harness::server::{BINARY, Ran, run};
use crate::harness::tools;

/// What the file of an image takes from another image, by default.
fn default_of(argument: &str) -> String {
    let file = std::fs::read_to_string(tools::root().join("deploy/module/Dockerfile.envoy")).unwrap();
    let line = format!("ARG {argument}=");
    file.lines().find_map(|found| found.strip_prefix(&line)).expect("a default").to_owned()
}

/// What a program needs of this machine to run, by path.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// A copy within a root, at the same place or this one.
fn install(file: &Path, root: &Path, place: &str) {
    let mut command = Command::new("install");
    command.args(["-D", "--mode=0755"]).arg(file).arg(root.join(place.trim_start_matches('/')));
    assert_eq!(run(command, "").code(), Some(0), "{}", file.display());
}

/// An Envoy in this root, as a user who is not root's, looks at a configuration that wants the module.
fn validate(root: &Path) -> Ran {
    let folder = root.join("etc/envoy-auth-tokens");
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("config.yaml");
    std::fs::write(&config, "tokens: [{token: this-is-the-secret-token, actor: {id: bot}}]\n").unwrap();
    let mut command = Command::new(BINARY);
    command.args(["envoy", "--inside", "--config"]).arg(&config);
    let printed = run(command, "");
    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let inside = printed.stdout.replace(config.to_str().unwrap(), "/etc/envoy-auth-tokens/config.yaml");
    std::fs::write(folder.join("envoy.yaml"), inside).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "chroot", "--userspec=65532:65532", "--groups="]).arg(root);
    command.args(["/usr/local/bin/envoy", "--mode", "validate", "-c", "/etc/envoy-auth-tokens/envoy.yaml"]);
    run(command, "")
}

#[test]
#[ignore = "builds images as root: make test-shipped"]
fn the_images_of_the_module_have_it_where_envoy_looks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::new(folder.path());
    // Of the tests: what `make module` builds takes minutes, and is asked of less.
    let context = folder.path().join("dist");
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(tools::module(), context.join("libenvoy_auth_tokens.so")).unwrap();
    let context = context.to_str().unwrap();

    let module = default_of("MODULE");
    assert!(module.ends_with(&format!(":{}", env!("CARGO_PKG_VERSION"))), "{module}");
    storage.buildah(&["build", "--file", "deploy/module/Dockerfile", "--tag", &module, context]);
    let inspected: Value =
        serde_json::from_str(&storage.buildah(&["inspect", "--type", "image", &module])).unwrap();
    let labels = &inspected["OCIv1"]["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    let root = storage.root_of(&module);
    let files: Vec<_> = std::fs::read_dir(&root).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["libenvoy_auth_tokens.so"], "a volume of this image has the module alone");

    // In the place of Envoy's image, which no registry in reach has.
    let container = storage.buildah(&["from", "scratch"]);
    let root = storage.buildah(&["mount", container.trim()]);
    let root = Path::new(root.trim());
    install(tools::envoy(), root, "/usr/local/bin/envoy");
    for library in [libraries(tools::envoy()), libraries(&tools::module())].concat() {
        install(Path::new(&library), root, &library);
    }
    let ran = validate(root);
    assert!(ran.code() != Some(0) && ran.stderr.contains("libenvoy_auth_tokens.so"), "no module: {ran:?}");
    storage.buildah(&["commit", "--rm", container.trim(), "envoy-of-the-tests"]);

    let build = ["build", "--file", "deploy/module/Dockerfile.envoy", "--tag", "envoy-with-auth"];
    storage.buildah(&[&build[..], &["--build-arg", "ENVOY=localhost/envoy-of-the-tests", "."]].concat());
    let ran = validate(&storage.root_of("localhost/envoy-with-auth"));
    assert!(ran.code() == Some(0) && ran.stderr.contains("envoy-auth-tokens: deciding"), "{ran:?}");
}
