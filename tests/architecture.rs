//! The crate keeps its shape: modules import in one direction, foreign crates are used in few places, files stay small.
//!
//! Read over the source text, because the compiler allows all of what is forbidden here.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each top-level module with its layer; a module may use only modules of lower layers.
const LAYERS: &[(&str, u8)] = &[
    ("bucket", 0),
    ("bundles", 0),
    ("push", 0),
    ("log", 1),
    ("wire", 1),
    // for all above wire
    ("proto", 2),
    ("config", 2),
    ("lifecycle", 3),
    ("record", 3),
    ("telemetry", 3),
    ("redis_client", 4),
    ("auth", 5),
    ("cluster", 5),
    ("hub", 5),
    ("queue", 5),
    ("store", 5),
    ("events", 6),
    ("routing", 6),
    ("dispatch", 7),
    ("ingress", 7),
    ("socket", 7),
    ("gateway", 8),
    ("cli", 9),
];

/// Who may name a foreign crate (or the generated code): a path's beginning below src/.
const USERS: &[(&str, &[&str])] = &[
    ("subtle", &["auth"]),
    ("tokio_nsq", &["queue/nsq"]),
    ("tokio_rustls", &["ingress/peers"]),
    ("crc32fast", &["log"]),
    ("arc_swap", &["socket/live", "ingress", "auth", "redis_client"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("tokio_tungstenite", &["cli"]),
    ("prost", &["record", "ingress/nsq"]),
    ("ipnet", &["config/subnet"]),
    ("url", &["config/host", "config/identities", "cluster/addresses", "socket/credentials"]),
    ("jsonwebtoken", &["auth/identity"]),
    ("base64", &["auth/identity", "push/content", "ingress/compat"]),
    ("ring", &["auth/identity", "config/key", "events/webhook", "ingress/claims", "ingress/peers/tls"]),
    ("webpki_roots", &["auth/identity"]),
    ("tonic", &["ingress", "cli", "lib.rs", "cluster"]),
    ("tonic_health", &["ingress"]),
    ("tonic_reflection", &["ingress"]),
    ("tonic_types", &["ingress/grpc"]),
    ("h2", &["ingress/grpc"]),
    ("hyper", &["ingress/grpc", "socket"]),
    ("hyper_util", &["ingress/grpc", "socket"]),
    ("http_body", &["ingress/grpc"]),
    // config.rs and store.rs have modules of that name
    ("redis", &["redis_client", "store/redis", "cluster/directory", "config.rs", "store.rs"]),
    ("reqwest", &["queue/nsq", "auth/identity", "events/webhook"]),
    ("rustls", &["cluster/etcd", "auth/identity", "ingress/peers", "queue/nsq"]),
    ("memmap2", &["wire/frame"]),
    ("nix", &["gateway/descriptors"]),
    ("prometheus_client", &["telemetry"]),
    ("procfs", &["telemetry/process"]),
    ("tracing_subscriber", &["telemetry"]),
    ("actix_http", &["socket", "ingress/http"]),
    ("actix_rt", &["socket", "hub", "ingress/http"]),
    ("actix_server", &["socket", "ingress/http"]),
    ("actix_service", &["socket", "ingress/http"]),
    ("actix_web", &["ingress/http"]),
    ("actix_ws", &["wire/close"]),
    ("crate::proto", &["lib", "ingress", "record", "cli", "cluster"]),
];

/// Lines of a file without its tests, where it stops being one noun.
const LONGEST: usize = 450;

/// A source file: its path below the repository, and its code without comments, texts and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap();
        below.split(['/', '.']).next().unwrap()
    }

    fn is_in(&self, place: &str) -> bool {
        let below = self.path.strip_prefix("src/").unwrap();
        let rest = below.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
    }

    /// How many `super` lead to the crate's root.
    fn depth(&self) -> usize {
        self.path.matches('/').count()
    }

    /// Every path below the crate's root that the code names, as `module::rest`.
    fn inner_paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let up = "super::".repeat(self.depth());
        for root in ["crate::", &up] {
            for (at, _) in self.code.match_indices(root) {
                let before = self.code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                expand("", &self.code[at + root.len()..], &mut paths);
            }
        }
        paths
    }
}

/// Adds the path at the beginning of `text`; a group in braces gives one for each of its items.
fn expand(prefix: &str, text: &str, paths: &mut BTreeSet<String>) {
    let text = text.trim_start();
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
        let path = &text[..end];
        match path.strip_suffix("::").filter(|_| text[end..].trim_start().starts_with('{')) {
            Some(path) => expand(&format!("{prefix}{path}::"), &text[end..], paths),
            None => drop(paths.insert(format!("{prefix}{}", path.trim_end_matches(':')))),
        }
        return;
    };
    let (mut depth, mut item) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                if !group[item..at].trim().is_empty() {
                    expand(prefix, &group[item..at], paths);
                }
                item = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Blanks comments and the insides of texts, and cuts what is only compiled for tests.
fn code_of(text: &str) -> String {
    // tests stand last in a file, where they are in it
    let tests = text.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at).find(|at| {
        let item = text[at + 1..].lines().find(|line| !line.starts_with("#["));
        item.is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
    });
    let text = &text[..tests.unwrap_or(text.len())];
    let mut code = String::with_capacity(text.len());
    let bytes: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest {
            ['/', '/', ..] => at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => {
                let end = rest.windows(2).position(|pair| pair == ['*', '/']).map_or(rest.len(), |end| end + 2);
                at += end;
            }
            ['r', '#', '"', ..] => {
                let end = rest[3..].windows(2).position(|pair| pair == ['"', '#']).map_or(rest.len(), |end| end + 5);
                code.push_str("\"\"");
                at += end;
            }
            ['\'', '"', '\'', ..] => at += 3,
            ['\'', '\\', _, '\'', ..] => at += 4,
            ['"', ..] => {
                let mut end = 1;
                while end < rest.len() && rest[end] != '"' {
                    end += if rest[end] == '\\' { 2 } else { 1 };
                }
                code.push_str("\"\"");
                at += end + 1;
            }
            [c, ..] => {
                code.push(*c);
                at += 1;
            }
            [] => {}
        }
    }
    code
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths);
    // what is only compiled for tests
    paths.retain(|path| !path.ends_with("tests.rs") && !path.components().any(|part| part.as_os_str() == "tests"));
    paths.sort();
    let source = |path: PathBuf| Source {
        code: code_of(&fs::read_to_string(&path).unwrap()),
        path: path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"),
    };
    paths.into_iter().map(source).collect()
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// What of `paths` the module of a file may not use.
fn wrong_imports(file: &Source) -> Vec<String> {
    let module = file.module();
    let own = layer(module);
    let mut wrong = Vec::new();
    for path in file.inner_paths() {
        let target = path.split("::").next().unwrap();
        // a macro or a constant of the root is no module
        let Some(theirs) = layer(target) else { continue };
        if target != module && own.is_some_and(|own| theirs >= own) {
            wrong.push(format!("{}: {module} must not use {path}", file.path));
        }
    }
    wrong
}

#[test]
fn imports_point_one_way() {
    let wrong: Vec<String> = sources().iter().filter(|file| file.module() != "lib").flat_map(wrong_imports).collect();
    assert!(
        wrong.is_empty(),
        "the direction is main → gateway → {{ingress, dispatch, socket}} → {{hub, queue, …}} → wire → push\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_module_has_its_layer() {
    for file in sources() {
        let module = file.module();
        assert!(
            ["lib", "main"].contains(&module) || layer(module).is_some(),
            "{}: name the layer of {module} here",
            file.path
        );
    }
}

/// What a file names that only other files may.
fn escapes(file: &Source) -> Vec<String> {
    let mut escaped = Vec::new();
    for (name, places) in USERS {
        let named = file.code.match_indices(name).any(|(at, _)| {
            // `::name` is the crate too, `module::name` is not
            let before = &file.code[..at];
            let before = before.strip_suffix("::").unwrap_or(before).chars().next_back();
            let apart = before.is_none_or(|c| !(c.is_alphanumeric() || "_:.>".contains(c)));
            let after = &file.code[at + name.len()..];
            // a crate is named as `name::`, or by `use name as …`
            apart && (after.starts_with("::") || after.starts_with(" as ") || after.starts_with(';'))
        });
        if named && !places.iter().any(|place| file.is_in(place) || file.path == format!("src/{place}")) {
            escaped.push(format!("{} names {name}, which only {places:?} may", file.path));
        }
    }
    let proto = file.inner_paths().into_iter().any(|path| path.starts_with("proto"));
    let (_, places) = USERS.iter().find(|(name, _)| *name == "crate::proto").unwrap();
    if proto && !places.iter().any(|place| file.is_in(place)) {
        escaped.push(format!("{} uses the generated protobuf code, which only {places:?} may", file.path));
    }
    escaped
}

#[test]
fn foreign_crates_are_named_where_they_may_be() {
    let escaped: Vec<String> = sources().iter().flat_map(escapes).collect();
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

/// Imports between the files of a module, by the names of the files.
fn siblings(file: &Source) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (at, up) in file.code.match_indices("super::") {
        if !file.code[..at].ends_with("::") {
            expand("", &file.code[at + up.len()..], &mut paths);
        }
    }
    paths.iter().map(|path| path.split("::").next().unwrap().to_owned()).collect()
}

#[test]
fn the_files_of_socket_import_each_other_one_way() {
    let mut files: Vec<Source> = sources().into_iter().filter(|file| file.path.starts_with("src/socket/")).collect();
    assert!(files.len() > 8);
    loop {
        let names: BTreeSet<String> =
            files.iter().map(|file| Path::new(&file.path).file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        let before = files.len();
        files.retain(|file| !siblings(file).is_disjoint(&names));
        if files.is_empty() {
            return;
        }
        assert!(files.len() < before, "{names:?} import each other in a circle");
    }
}

#[test]
fn the_process_is_ended_in_one_place_only() {
    for file in
        sources().iter().filter(|file| file.code.contains("process::exit") || file.code.contains("process::abort"))
    {
        assert_eq!(file.path, "src/cli/signals.rs", "only the second signal may end the process without a drain");
    }
}

#[test]
fn files_are_short_and_none_is_called_mod() {
    for file in sources() {
        let lines = file.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LONGEST, "{} has {lines} lines of code; at most {LONGEST}: split it by nouns", file.path);
        assert!(!file.path.ends_with("mod.rs"), "{}: foo.rs + foo/, no mod.rs", file.path);
    }
}

#[test]
fn nothing_is_left_to_do_and_nothing_unwrapped() {
    for file in sources() {
        for word in [".unwrap()", "todo!", "unimplemented!", "dbg!", "unsafe "] {
            assert!(!file.code.contains(word), "{} has {word}", file.path);
        }
    }
}

/// The names of the types that a file defines, associated types apart.
fn types(file: &Source) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for line in file.code.lines() {
        // an associated type stands in an impl or a trait
        let (indented, line) = (line.starts_with(' '), line.trim_start());
        let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')').map_or(rest, |(_, rest)| rest),
            None => rest,
        });
        // the types that a macro of the file makes: `section! { Name { …`, `label_values! { Name in …`
        let made = line.split_once(['{', ' ']).map(|(name, _)| name.trim()).filter(|name| {
            let defines = file.code.contains("section! {") && line.trim_end().contains(" {");
            let labels = file.code.contains("label_values! {") && line.contains(" in ") && line.contains(" by ");
            indented
                && (defines || labels)
                && name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.chars().all(is_word)
        });
        names.extend(made);
        let Some((keyword, rest)) = line.trim_start().split_once(' ') else { continue };
        if ["struct", "enum", "trait", "union"].contains(&keyword) || (keyword == "type" && !indented) {
            names.extend(rest.split(|c| !is_word(c)).next().filter(|name| !name.is_empty()));
        }
    }
    names
}

/// Both backends of the queue have these, each behind the queue's own of the same name.
const OF_BOTH_BACKENDS: &[&str] = &["Acker", "Control", "Publisher"];

#[test]
fn no_two_types_share_a_name_but_the_two_backends_of_one_seam() {
    let sources = sources();
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in &sources {
        for name in types(file) {
            places.entry(name).or_default().push(&file.path);
        }
    }
    let is_seam = |name: &str, files: &[&str]| {
        OF_BOTH_BACKENDS.contains(&name) && files.iter().all(|file| file.starts_with("src/queue")) && files.len() <= 3
    };
    let shared: Vec<_> = places.iter().filter(|(name, files)| files.len() > 1 && !is_seam(name, files)).collect();
    assert!(shared.is_empty(), "each of these names says several things: {shared:#?}");
    let reads = ["QueueConfig", "DropReason", "Address"].iter().all(|name| places.contains_key(name));
    assert!(reads && places["Acker"].len() == 3, "the reader found only {places:#?}");
}

/// The reader above is code too: what it must find, it finds.
#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    let file = |path: &str, text: &str| Source { path: path.into(), code: code_of(text) };
    let wrong = [
        file("src/hub/shard.rs", "use crate::{config, queue::Jobs};"),
        file("src/hub/shard.rs", "use crate::{\n    config::{self, Hub},\n    socket::{Bound, Clients},\n};"),
        file("src/hub/shard.rs", "fn f() { crate::gateway::run() }"),
        file("src/hub/shard.rs", "use super::super::dispatch::Dispatch;"),
        file("src/wire.rs", "use super::config::Config;"),
        file("src/cluster/sweep.rs", "use crate::queue::Publisher;"),
        file("src/cluster/sweep.rs", "use crate::queue::nsq::forget_node;"),
    ];
    for file in &wrong {
        assert!(!wrong_imports(file).is_empty(), "{}", file.code);
    }
    let right = [
        file("src/hub/shard.rs", "use crate::{config, push::Push};\nuse super::outbox::Outbox;"),
        file("src/hub.rs", "// crate::gateway\n/// [`crate::socket`]\nconst A: &str = \"crate::socket\";"),
        file("src/hub.rs", "\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n use crate::gateway::Gateway;\n}"),
    ];
    for file in &right {
        assert!(wrong_imports(file).is_empty(), "{}", file.code);
    }
}

#[test]
fn rust_alone_builds_it_from_any_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // cargo reads that from the working folder only: a build from elsewhere, or by `cargo install`, would lack what it says
    assert!(!root.join(".cargo/config.toml").exists(), "the build depends on .cargo/config.toml");
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    assert!(!lock.contains("name = \"etcd-client\""), "etcd-client's build script needs protoc: docs/adr/0006");
}

#[test]
fn an_escape_is_found_however_it_is_written() {
    let file = |path: &str, text: &str| Source { path: path.into(), code: code_of(text) };
    for (path, text) in [
        ("src/dispatch.rs", "use tokio_nsq::NSQEvent;"),
        ("src/dispatch.rs", "fn f() -> ::tokio_nsq::NSQEvent {}"),
        ("src/dispatch.rs", "use {std::io, tokio_nsq::NSQEvent};"),
        ("src/dispatch.rs", "use tokio_nsq as nsq;"),
        ("src/queue/nsq_like.rs", "extern crate tokio_nsq;"),
        ("src/queue.rs", "use prometheus_client::registry::Registry;"),
        ("src/hub.rs", "use crate::{proto::rpc::PushRequest, push::Push};"),
        ("src/queue/nsq.rs", "fn f() { super::super::proto::record::Record::default(); }"),
    ] {
        assert!(!escapes(&file(path, text)).is_empty(), "{path}: {text}");
    }
    for (path, text) in [
        ("src/queue/nsq/consumer.rs", "use tokio_nsq::NSQEvent;"),
        ("src/queue/nsq.rs", "use tokio_nsq::NSQEvent;"),
        (
            "src/dispatch.rs",
            "// tokio_nsq::NSQEvent\nuse crate::config::prost::X;\nfn f() { self.prost; my_tokio_nsq::f() }",
        ),
    ] {
        assert_eq!(escapes(&file(path, text)), Vec::<String>::new(), "{path}: {text}");
    }
}
