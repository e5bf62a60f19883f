//! What the images are built of is in the build context: .dockerignore admits it. (No docker is needed for that.)
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Component, Path, PathBuf};

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
