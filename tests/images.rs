//! What the images are built of is in the build context: .dockerignore admits it. (No docker is needed for that.)
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Component, Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// What .dockerignore admits: it shuts everything out and lists exceptions.
fn admitted() -> Vec<PathBuf> {
    let text = read(".dockerignore");
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"));
    lines.map(|line| PathBuf::from(line.strip_prefix('!').expect("only exceptions follow"))).collect()
}

/// The last stage's lines that begin with a word, without it.
fn instructions(word: &str) -> Vec<String> {
    let text = read("Dockerfile");
    let stage = text.rsplit("\nFROM ").next().unwrap().to_owned();
    stage.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).map(str::to_owned).collect()
}

/// The environment that the gateway's image sets.
fn environment() -> Vec<(String, String)> {
    let lines = instructions("ENV");
    let pairs = lines.iter().flat_map(|line| line.split_whitespace());
    pairs.map(|pair| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap()).collect()
}

/// `path` without its `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir => assert!(path.pop()),
            Component::CurDir => {}
            component => path.push(component),
        }
        path
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file or folder that a build names.
fn named() -> Vec<PathBuf> {
    let mut named: Vec<PathBuf> = ["Cargo.toml", "Cargo.lock", "build.rs", "src"].map(PathBuf::from).into();
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    named.extend(members.split('"').skip(1).step_by(2).map(PathBuf::from));
    // Cargo wants the files of the targets that a manifest names, whatever is built
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = "));
    named.extend(paths.map(|path| PathBuf::from(path.trim_matches('"'))));
    named.extend(manifest.contains("[[bench]]").then(|| PathBuf::from("benches")));
    let compiled = read("build.rs");
    named.extend(compiled.split('"').filter(|text| text.ends_with(".proto")).map(PathBuf::from));
    for line in read("Dockerfile").lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        named.extend(words[1..words.len() - 1].iter().filter(|word| **word != ".").map(PathBuf::from));
    }
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for file in files {
        let text = read(&file);
        for part in text.split("include_").skip(1) {
            let Some(path) = part.strip_prefix("str!(\"").or_else(|| part.strip_prefix("bytes!(\"")) else { continue };
            named.push(plain(&file.parent().unwrap().join(path.split('"').next().unwrap())));
        }
    }
    named
}

#[test]
fn what_the_images_are_built_of_is_in_their_context() {
    let (admitted, named) = (admitted(), named());
    assert!(named.contains(&"config.ini".into()) && named.contains(&"tools/confd".into()), "{named:?}");
    for path in named {
        assert!(root().join(&path).exists(), "{} is not there", path.display());
        assert!(admitted.iter().any(|folder| path.starts_with(folder)), ".dockerignore shuts {} out", path.display());
    }
}

#[test]
fn what_compose_mounts_from_here_is_here() {
    let compose = read("docker-compose.yml");
    let mounts: Vec<&str> = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")).collect();
    assert!(!mounts.is_empty());
    for mount in mounts {
        let path = mount.split(':').next().unwrap();
        assert!(root().join(path).exists(), "{path} is not there");
    }
}

#[test]
fn the_context_admits_only_what_is_there() {
    for path in admitted() {
        assert!(root().join(&path).exists(), ".dockerignore admits {}, which is not there", path.display());
    }
}

/// What the image does not start without.
const SECRETS: [(&str, &str); 2] = [
    ("OXIPUSH__AUTH__KEYS", "a-key-that-is-long-enough"),
    ("OXIPUSH__TOKEN__SECRET", "a-secret-of-at-least-32-bytes-for-tokens"),
];

/// `oxipush WORDS…` with the environment of the gateway's image and `more`; whether it ended well, and what it said.
fn in_the_image(words: &[&str], more: &[(&str, &str)]) -> (bool, String) {
    let variables = environment();
    assert!(!variables.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_oxipush"));
    program.args(words).env_clear().envs(variables).envs(more.iter().copied()).current_dir(&folder);
    let output = program.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_image_listens_for_others_and_not_without_keys_and_tokens() {
    let (well, said) = in_the_image(&["check-config"], &[]);
    assert!(!well && said.contains("[auth] keys") && said.contains("set [token]"), "{said}");
    let (well, said) = in_the_image(&["check-config"], &SECRETS);
    assert!(well && said.contains("0.0.0.0:8080") && said.contains("0.0.0.0:8081"), "{said}");
}

/// What docker-compose.yml makes of these variables: gateway-1's environment, and where nginx publishes the clients' port.
fn composed(variables: &[(&str, &str)]) -> (serde_json::Map<String, serde_json::Value>, String) {
    let folders = [std::env::var_os("OXIPUSH_TOOLS").map(PathBuf::from), Some(root().join(".tools/bin"))];
    let tools = folders.into_iter().flatten().map(|folder| folder.join("compose-config"));
    let program = tools.into_iter().find(|path| path.is_file()).expect("compose-config is missing: run scripts/tools");
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap();
    command.arg(root().join("docker-compose.yml")).env_clear().env("PATH", path).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let project: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let services = &project["services"];
    let clients = services["nginx"]["ports"].as_array().unwrap().iter().find(|port| port["target"] == 8080).unwrap();
    let environment = services["gateway-1"]["environment"].as_object().unwrap().clone();
    (environment, clients["host_ip"].as_str().unwrap().to_owned())
}

#[test]
fn compose_opens_the_clients_port_only_with_a_token_secret_or_the_word_anonymous() {
    let secret = ("OXIPUSH_TOKEN_SECRET", "a secret; with $5, # and \\ of more than \"32\" bytes: é");
    let (address, anonymous) = (("OXIPUSH_CLIENTS_ADDRESS", "0.0.0.0"), ("OXIPUSH_ANONYMOUS", "true"));
    let refused = ("OXIPUSH_ANONYMOUS", "false");
    for (variables, published, is_anonymous, refusal) in [
        (&[][..], "127.0.0.1", "true", ""),
        (&[address], "0.0.0.0", "false", "clients have nothing to prove themselves by"),
        (&[address, secret], "0.0.0.0", "false", ""),
        (&[address, anonymous], "0.0.0.0", "true", ""),
        (&[address, refused], "0.0.0.0", "false", "clients have nothing to prove themselves by"),
        (&[address, secret, anonymous], "0.0.0.0", "true", ""),
        (&[address, ("OXIPUSH_TOKEN_SECRET", "short")], "0.0.0.0", "false", "take 32 or more"),
        (&[secret], "127.0.0.1", "false", ""),
        (&[anonymous], "127.0.0.1", "true", ""),
        (&[refused], "127.0.0.1", "false", "clients have nothing to prove themselves by"),
    ] {
        let (environment, host) = composed(variables);
        assert_eq!(host, published, "{variables:?}");
        let text = |key: &str| environment[key].as_str().unwrap();
        assert_eq!(text("OXIPUSH__SOCKET__ANONYMOUS"), is_anonymous, "{variables:?}");
        let given = variables.iter().find(|(key, _)| *key == "OXIPUSH_TOKEN_SECRET");
        assert_eq!(text("OXIPUSH__TOKEN__SECRET"), given.map_or("", |(_, secret)| secret), "{variables:?}");
        let all: Vec<(&str, &str)> =
            environment.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect();
        let (well, said) = in_the_image(&["check-config"], &all);
        assert_eq!(well, refusal.is_empty(), "{variables:?}: {said}");
        assert!(said.contains(refusal), "{variables:?}: {said}");
    }
}

#[test]
fn the_images_health_check_is_a_command_that_it_has() {
    let file = read("Dockerfile");
    let command = file.lines().find(|line| line.starts_with("HEALTHCHECK ")).unwrap();
    assert!(command.ends_with(r#"CMD ["/oxipush", "health"]"#), "{command}");
    // nobody listens there in this test: it says so, and that it is not healthy
    let nobody = ("OXIPUSH__HTTP__LISTEN", "127.0.0.1:1");
    let (well, said) = in_the_image(&["health"], &[SECRETS[0], SECRETS[1], nobody]);
    assert!(!well && said.contains("no answer from 127.0.0.1:1"), "{said}");
}

/// The image's root: the binary and the libraries that it is linked to, /data of the image's user.
fn image(folder: &Path) {
    let binary = env!("CARGO_BIN_EXE_oxipush");
    std::fs::copy(binary, folder.join("oxipush")).unwrap();
    let output = Command::new("ldd").arg(binary).output().unwrap();
    for word in String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = folder.join(word.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(word, inside).unwrap();
    }
    std::fs::create_dir(folder.join("data")).unwrap();
    std::os::unix::fs::chown(folder.join("data"), Some(65532), Some(65532)).unwrap();
}

/// A chroot needs root; CI has it.
#[test]
fn the_image_starts_as_its_user_and_its_health_check_passes() {
    let id = Command::new("id").arg("-u").output().unwrap();
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        eprintln!("NOT RUN: a chroot needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    // an address of its own instead of all, so that the image's ports are free
    let pid = std::process::id();
    let address = format!("127.{}.{}.1", 200 + pid / 250 % 50, pid % 250 + 1);
    let command = |words: &[String]| {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={}", instructions("USER")[0])).arg(folder.path()).args(words);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(environment().into_iter().map(|(key, value)| (key, value.replace("0.0.0.0", &address))));
        // chroot leaves the working folder at /, the image has /data
        command.env("OXIPUSH__AUTH__KEYS", "a-key-that-is-long-enough").env("OXIPUSH__DATA__DIR", "/data/data");
        command
    };
    let words = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap();
    let entrypoint = words(&instructions("ENTRYPOINT")[0]);
    let check = words(instructions("HEALTHCHECK")[0].split("CMD ").nth(1).unwrap());
    let mut gateway = command(&entrypoint).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let healthy = loop {
        let output: Output = command(&check).output().unwrap();
        if output.status.success() || begun.elapsed() > Duration::from_secs(60) {
            break output;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let term = Command::new("kill").arg(gateway.id().to_string()).status().unwrap();
    let ended = gateway.wait().unwrap();
    assert!(healthy.status.success(), "{healthy:?}");
    assert!(term.success() && ended.success(), "{ended}");
}
