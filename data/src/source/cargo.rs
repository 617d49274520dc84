//! The sources of packages that a `Cargo.lock` pins: text that every machine which built a crate already has.
//!
//! Where a package lies is asked of `cargo metadata --offline --locked`, which knows `CARGO_HOME`, vendored folders and path
//! dependencies. That command wants every package of the graph on the disk, test-only ones included; a machine that has only built
//! has fewer. Then the lock file alone decides, and the folder is looked for where cargo unpacks registry crates.
//! A file's name is `package-version/path`, and what differs between an unpacked and a vendored package is left out,
//! so that the digest is the same on every machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ReadOptions, ResolveContext, ResolvedSource, files, remote};
use crate::{Error, Result, whole};

/// Files of dependencies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CargoSpec {
    /// The `Cargo.toml` beside the lock file, relative to the recipe.
    #[serde(default = "default_manifest")]
    pub manifest: PathBuf,
    /// Names of packages, `name` (every version that is locked) or `name@version`.
    pub packages: Vec<String>,
    /// Patterns of paths inside a package, such as `**/*.md`.
    pub include: Vec<String>,
    /// Patterns of paths inside a package that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whole files, or the prose in them.
    #[serde(default)]
    pub take: Take,
}

fn default_manifest() -> PathBuf {
    PathBuf::from("../Cargo.toml")
}

/// What of a file becomes a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// The whole file.
    #[default]
    Files,
    /// The prose of Rust documentation comments, code examples left out.
    DocComments,
}

/// A locked package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Package {
    name: String,
    version: String,
    folder: PathBuf,
}

/// Bytes of a manifest, a lock file or a remembered answer: one of ten thousand packages has some 3 MB.
const MOST: u64 = 64 << 20;

/// Left out everywhere: made by cargo or by packing, or not the same in a vendored folder. Hidden files are left out too.
const NOT_CONTENT: [&str; 2] = ["Cargo.lock", "Cargo.toml.orig"];

pub(super) fn resolve(spec: &CargoSpec, context: &ResolveContext<'_>) -> Result<ResolvedSource> {
    let options = ReadOptions::Cargo { take: spec.take }.to_value()?;
    let manifest = context.base.join(&spec.manifest);
    let include = files::glob_set(&spec.include)?;
    let exclude = files::glob_set(&spec.exclude)?;
    let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
    for package in select(spec, &manifest, context)? {
        let enter = &mut |folder: &str| folder != "target";
        let walked = files::walk(&package.folder, enter)?;
        notes.extend(walked.notes);
        for (path, location) in walked.files {
            let file = path.rsplit('/').next().unwrap_or_default();
            if NOT_CONTENT.contains(&file) || !include.is_match(&path) || exclude.is_match(&path) {
                continue;
            }
            let name = format!("{}-{}/{path}", package.name, package.version);
            let file = files::local_file(name.clone(), &location, context)?;
            found.insert(name, file);
        }
    }
    if found.is_empty() {
        let reason = format!("no file of {} matches {}", spec.packages.join(", "), spec.include.join(", "));
        return Err(Error::SourceMissing { location: manifest.display().to_string(), reason });
    }
    Ok(ResolvedSource { options, files: found.into_values().collect(), notes, patience: context.patience })
}

fn select(spec: &CargoSpec, manifest: &Path, context: &ResolveContext<'_>) -> Result<BTreeSet<Package>> {
    if spec.packages.is_empty() {
        let reason = "is empty; name at least one package".to_string();
        return Err(Error::Parameter { name: "sources.cargo-sources.packages".into(), reason });
    }
    let locked = Locked::read(manifest)?;
    let mut wanted = BTreeSet::new();
    for package in &spec.packages {
        let before = wanted.len();
        wanted.extend(locked.matching(package));
        if wanted.len() == before && locked.matching(package).next().is_none() {
            // As for every other name: a third of the letters may differ, or one, and never all.
            let letters = package.chars().count();
            let limit = (letters / 3).max(1).min(letters.saturating_sub(1));
            let near = locked.packages.iter().map(|(name, _)| (strsim::osa_distance(name, package), name));
            let nearest = near
                .filter(|(distance, name)| *distance <= limit && *distance < name.len())
                .min()
                .map(|(_, name)| name.clone());
            return Err(Error::UnknownPackage { package: package.clone(), manifest: manifest.into(), nearest });
        }
    }
    // A remembered answer may be out of date where folders were moved: before an error, cargo is asked again.
    locate(&wanted, manifest, &known_packages(manifest, &locked, context, true))
        .or_else(|_| locate(&wanted, manifest, &known_packages(manifest, &locked, context, false)))
}

/// Where each wanted package lies.
fn locate(
    wanted: &BTreeSet<(String, String)>,
    manifest: &Path,
    packages: &Result<Vec<Package>, String>,
) -> Result<BTreeSet<Package>> {
    let mut located = BTreeSet::new();
    for (name, version) in wanted {
        let known =
            packages.as_ref().ok().and_then(|all| all.iter().find(|p| p.name == *name && p.version == *version));
        if let Some(found) =
            known.filter(|package| package.folder.is_dir()).cloned().or_else(|| unpacked(name, version))
        {
            located.insert(found);
            continue;
        }
        let reason = match packages {
            Ok(_) => {
                let folder = known.map_or_else(|| registry().join(format!("{name}-{version}")), |p| p.folder.clone());
                format!("there is no {}", folder.display())
            }
            // Cargo names the first package that it misses, which is hardly ever this one.
            Err(complaint) if complaint.contains("--offline was specified") => "they were not downloaded".to_owned(),
            Err(complaint) => format!("`cargo metadata --offline --locked` says: {complaint}"),
        };
        return Err(Error::PackageSourcesMissing {
            package: format!("{name}@{version}"),
            manifest: manifest.into(),
            reason,
        });
    }
    Ok(located)
}

/// Names and versions of a lock file.
struct Locked {
    packages: BTreeSet<(String, String)>,
    digest: blake3::Hash,
}

impl Locked {
    /// Reads the lock file beside `manifest` or, as cargo does for a member of a workspace, in the nearest folder above.
    fn read(manifest: &Path) -> Result<Self> {
        let missing =
            |reason: &str| Error::SourceMissing { location: manifest.display().to_string(), reason: reason.into() };
        if !manifest.is_file() {
            return Err(missing("there is no such manifest"));
        }
        let manifest = fs::canonicalize(manifest)?;
        let lock = manifest.ancestors().skip(1).map(|folder| folder.join("Cargo.lock")).find(|lock| lock.is_file());
        let lock = lock.ok_or_else(|| {
            missing("no `Cargo.lock` lies beside it or above; make one with `cargo generate-lockfile`")
        })?;
        let text = String::from_utf8(whole::read(&lock, MOST)?)
            .map_err(|_| missing("its `Cargo.lock` is no UTF-8 text; make one with `cargo generate-lockfile`"))?;
        // The lock file is written by cargo, one `key = "value"` a line, `name` directly before `version`.
        let mut packages = BTreeSet::new();
        let mut name = None;
        for line in text.lines() {
            let value =
                |key: &str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix(" = \"")?.strip_suffix('"'));
            if let Some(value) = value("name") {
                name = Some(value.to_string());
            } else if let (Some(version), Some(name)) = (value("version"), name.take()) {
                packages.insert((name, version.to_string()));
            }
        }
        Ok(Locked { packages, digest: blake3::hash(text.as_bytes()) })
    }

    fn matching<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
        let (name, version) = wanted.split_once('@').map_or((wanted, None), |(name, version)| (name, Some(version)));
        self.packages.iter().filter(move |(n, v)| n == name && version.is_none_or(|version| version == v)).cloned()
    }
}

fn cargo_home() -> PathBuf {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return home.into();
    }
    #[cfg(windows)]
    let home = std::env::var_os("USERPROFILE");
    #[cfg(not(windows))]
    let home = std::env::var_os("HOME");
    PathBuf::from(home.unwrap_or_default()).join(".cargo")
}

fn registry() -> PathBuf {
    cargo_home().join("registry").join("src")
}

/// A registry crate where cargo unpacks it, whole (cargo writes `.cargo-ok` last).
fn unpacked(name: &str, version: &str) -> Option<Package> {
    let mut registries: Vec<PathBuf> = fs::read_dir(registry()).ok()?.flatten().map(|entry| entry.path()).collect();
    registries.sort();
    let folders = registries.into_iter().map(|registry| registry.join(format!("{name}-{version}")));
    let folder = folders.into_iter().find(|folder| folder.join(".cargo-ok").is_file())?;
    Some(Package { name: name.into(), version: version.into(), folder })
}

/// All that `cargo metadata` knows, remembered by lock file, manifest and `CARGO_HOME`; or its complaint. That it complained is
/// remembered too, as an empty list: on a machine that has only built, every plan would wait for the same refusal.
fn known_packages(
    manifest: &Path,
    locked: &Locked,
    context: &ResolveContext<'_>,
    remembered: bool,
) -> Result<Vec<Package>, String> {
    let mut hasher = blake3::Hasher::new();
    let content = whole::read(manifest, MOST).unwrap_or_default();
    let place = manifest.canonicalize().unwrap_or_else(|_| manifest.into());
    for part in [
        locked.digest.as_bytes().as_slice(),
        blake3::hash(&content).as_bytes().as_slice(),
        place.as_os_str().as_encoded_bytes(),
        cargo_home().as_os_str().as_encoded_bytes(),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let memo = context.memo_dir.map(|folder| folder.join(format!("cargo-{}.json", hasher.finalize().to_hex())));
    if remembered
        && let Some(bytes) = memo.as_ref().and_then(|path| whole::read(path, MOST).ok())
        && let Ok(packages) = serde_json::from_slice(&bytes)
    {
        return Ok(packages);
    }
    let packages = ask_cargo(manifest);
    let list: &[Package] = packages.as_deref().unwrap_or_default();
    if let (Some(path), Ok(json)) = (memo, serde_json::to_vec(list)) {
        // A memo that cannot be written costs the next plan half a second, not this one its answer.
        if let Err(error) = remote::write_memo(&path, &json) {
            tracing::debug!(%error, "the list of packages is not remembered");
        }
    }
    packages
}

fn ask_cargo(manifest: &Path) -> Result<Vec<Package>, String> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        version: String,
        manifest_path: PathBuf,
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", cargo.to_string_lossy()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_string());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let package = |entry: Entry| {
        let folder = entry.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default();
        Package { name: entry.name, version: entry.version, folder }
    };
    Ok(metadata.packages.into_iter().map(package).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Patience;
    use crate::source::{Item, SourceSpec, read};

    /// A crate with a lock file and a dependency by path: what needs no registry.
    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[package]\nname = \"top\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nlower = { path = \"lower\" }\n",
        );
        write("src/lib.rs", "");
        write("lower/Cargo.toml", "[package]\nname = \"lower\"\nversion = \"1.2.3\"\nedition = \"2021\"\n");
        write("lower/src/lib.rs", "//! Prose of the crate.\npub fn f() {}\n");
        write("lower/README.md", "# Lower\n");
        write("lower/image.md", "\0binary");
        for skipped in [".cargo_vcs_info.json", ".cargo-checksum.json", "target/doc/x.md", ".github/x.md"] {
            write(&format!("lower/{skipped}"), "not content");
        }
        write(
            "Cargo.lock",
            "version = 3\n\n[[package]]\nname = \"lower\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"top\"\nversion = \"0.1.0\"\ndependencies = [\n \"lower\",\n]\n",
        );
        folder
    }

    fn resolve_in(folder: &Path, spec: &str, memo: Option<&Path>) -> Result<ResolvedSource> {
        let hash = |path: &Path| Ok(blake3::hash(&fs::read(path)?).to_hex().to_string());
        let spec: SourceSpec = serde_json::from_str(spec).unwrap();
        crate::source::resolve(
            &spec,
            &ResolveContext { base: folder, hash: &hash, memo_dir: memo, patience: Patience::default() },
        )
    }

    #[test]
    fn files_are_named_by_package_and_what_is_no_content_is_left_out() {
        let folder = workspace();
        let memo = tempfile::tempdir().unwrap();
        let spec = r#"{"cargo-sources":{"manifest":"Cargo.toml","packages":["lower"],"include":["**/*"]}}"#;
        let source = resolve_in(folder.path(), spec, Some(memo.path())).unwrap();
        let names: Vec<&str> = source.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["lower-1.2.3/Cargo.toml", "lower-1.2.3/README.md", "lower-1.2.3/image.md", "lower-1.2.3/src/lib.rs"]
        );
        assert_eq!(fs::read_dir(memo.path()).unwrap().count(), 1);
        assert_eq!(resolve_in(folder.path(), spec, Some(memo.path())).unwrap(), source);

        let mut items = Vec::new();
        read(&source, &mut |item| {
            items.push(item);
            Ok(())
        })
        .unwrap();
        assert!(matches!(&items[1], Item::Document(document) if document.source == "lower-1.2.3"));
        assert!(matches!(&items[2], Item::Broken(broken) if broken.place == "lower-1.2.3/image.md"));

        let spec = r#"{"cargo-sources":{"manifest":"Cargo.toml","packages":["lower@1.2.3"],"include":["src/*.rs"],"take":"doc-comments"}}"#;
        let mut texts = Vec::new();
        let prose = resolve_in(folder.path(), spec, None).unwrap();
        read(&prose, &mut |item| {
            texts.push(item);
            Ok(())
        })
        .unwrap();
        assert!(matches!(&texts[..], [Item::Document(document)] if document.text == "Prose of the crate.\n"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = workspace();
        let with = |packages: &str, include: &str| {
            let spec = format!(
                r#"{{"cargo-sources":{{"manifest":"Cargo.toml","packages":[{packages}],"include":["{include}"]}}}}"#
            );
            resolve_in(folder.path(), &spec, None).unwrap_err()
        };
        let error = with("\"lowr\"", "*");
        assert!(matches!(&error, Error::UnknownPackage { nearest: Some(near), .. } if near == "lower"), "{error}");
        assert!(matches!(with("\"lower@9.9.9\"", "*"), Error::UnknownPackage { .. }));
        assert!(matches!(with("\"lower\"", "*.csv"), Error::SourceMissing { .. }));
        assert!(matches!(with("", "*"), Error::Parameter { .. }));
        // A package that is locked and nowhere to be found.
        let lock = folder.path().join("Cargo.lock");
        let more = "\n[[package]]\nname = \"no-such-crate-on-any-disk\"\nversion = \"0.0.1\"\n";
        fs::write(&lock, fs::read_to_string(&lock).unwrap() + more).unwrap();
        let error = with("\"no-such-crate-on-any-disk\"", "*").to_string();
        assert!(error.starts_with("find the sources of package `no-such-crate-on-any-disk@0.0.1`"), "{error}");
    }
}
