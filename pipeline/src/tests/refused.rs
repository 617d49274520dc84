//! A hostile or mistaken recipe for each rule of the language, and what a person is told.
//!
//! `tests/samples/refused/NAME.yaml` is the recipe, `NAME.txt` every diagnostic in its plain form. A first line such as
//! `# --profile nano --set a=1` is what was given on the command line. With `FLOW_UPDATE_SAMPLES` set the texts are written.

use std::path::{Path, PathBuf};

use super::world::prepare;
use crate::{
    error::Error,
    recipe::{LoadOptions, SourceMap, load},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/refused")
}

fn options(text: &str) -> LoadOptions {
    let mut options = LoadOptions::default();
    let mut words = text.lines().next().and_then(|line| line.strip_prefix("# --")).unwrap_or("").split(' ');
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        match flag.trim_start_matches('-') {
            "profile" => options.profiles.push(value.into()),
            "set" => options.set.extend(value.split_once('=').map(|(path, value)| (path.into(), value.into()))),
            other => panic!("--{other}"),
        }
    }
    options
}

/// What is told, with paths from the samples' folder on.
fn told(path: &Path, options: &LoadOptions) -> Option<String> {
    let (text, codes, sources): (String, Vec<&str>, SourceMap) = match load(path, options) {
        Err(error) => {
            (error.render(), error.diagnostics.iter().map(|diagnostic| diagnostic.code).collect(), error.sources)
        }
        Ok(recipe) => match prepare(&recipe, &[]) {
            Ok(_) => return None,
            Err(Error::Recipe(diagnostics)) => {
                let lines: Vec<String> = diagnostics.iter().map(|one| one.render(&recipe.sources)).collect();
                (lines.join("\n"), diagnostics.iter().map(|one| one.code).collect(), recipe.sources)
            }
            Err(other) => panic!("{}: {other}", path.display()),
        },
    };
    assert!(!codes.is_empty() && !sources.files().is_empty() || text.contains("cannot read the recipe"), "{text}");
    let parent = folder().display().to_string() + "/";
    Some(format!("[{}]\n{}\n", codes.join(" "), text.replace(&parent, "")))
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_do() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    let mut files: Vec<PathBuf> = fs_err::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "yaml")) {
        let text = String::from_utf8_lossy(&fs_err::read(path).unwrap()).into_owned();
        let told = told(path, &options(&text)).unwrap_or_else(|| panic!("{} is accepted", path.display()));
        let golden = path.with_extension("txt");
        if std::env::var_os("FLOW_UPDATE_SAMPLES").is_some() {
            fs_err::write(&golden, &told).unwrap();
        }
        if fs_err::read_to_string(&golden).unwrap_or_default() != told {
            wrong.push(format!("{}:\n{told}", path.display()));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 40, "{seen} samples");
}

/// What no sample file can hold.
#[test]
fn what_is_no_recipe_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let say = |name: &str| {
        let error = load(&dir.path().join(name), &LoadOptions::default()).unwrap_err();
        error.render().replace(&dir.path().display().to_string(), "DIR")
    };
    fs_err::create_dir(dir.path().join("folder")).unwrap();
    fs_err::write(dir.path().join("large"), vec![b' '; (4 << 20) + 1]).unwrap();
    fs_err::write(dir.path().join("a"), "x: !include b").unwrap();
    fs_err::write(dir.path().join("b"), "x: !include ./a").unwrap();
    assert_eq!(say("absent"), "cannot read the recipe `DIR/absent`: there is no such file");
    assert_eq!(say("folder"), "cannot read the recipe `DIR/folder`: it is not a file");
    assert_eq!(say("large"), "cannot read the recipe `DIR/large`: it is larger than 4 MiB");
    assert_eq!(
        say("a"),
        "DIR/b:1:4: cannot include `./a`: the files include each other: DIR/a → DIR/b → DIR/./a \
         (break the cycle by moving what both need into a third file)"
    );
}

/// Bombs end in a message, and soon.
#[test]
fn bombs_are_refused() {
    let say = |text: &str, options: &LoadOptions| {
        let error = crate::recipe::parse_str("r.yaml", text, options).unwrap_err();
        error.diagnostics[0].code
    };
    let plain = LoadOptions::default();
    let head = "flow: 1\nname: bomb\nstages:\n";
    let start = std::time::Instant::now();
    // A billion laughs, through aliases and through merges.
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    let mut merges = String::from("a0: &a0 { k: 1 }\n");
    for i in 1..30 {
        let star = format!("*a{}", i - 1);
        laughs += &format!("a{i}: &a{i} [{}]\n", [star.as_str(); 10].join(", "));
        merges += &format!("a{i}: &a{i} {{ l: {star}, m: {star} }}\n");
    }
    assert_eq!(say(&laughs, &plain), "recipe::too-large");
    assert_eq!(say(&merges, &plain), "recipe::too-large");
    // Depth, in both styles.
    assert_eq!(say(&"[".repeat(100), &plain), "recipe::too-deep");
    assert_eq!(say(&"[".repeat(100_000), &plain), "recipe::yaml");
    assert_eq!(say(&(0..200).map(|i| " ".repeat(i) + "a:\n").collect::<String>(), &plain), "recipe::too-deep");
    assert_eq!(say(&"- ".repeat(10_000), &plain), "recipe::too-deep");
    let deep = LoadOptions { set: vec![(vec!["vars"; 1000].join("."), "1".into())], ..plain.clone() };
    assert_eq!(say(&format!("{head}  a: {{ kind: write }}\n"), &deep), "recipe::too-deep");
    // Expansion: many instances with large params, and large variables used often.
    let names: Vec<String> = (0..9000).map(|i| format!("d{i}")).collect();
    let params: Vec<String> = (0..1000).map(|i| format!("p{i}: 1")).collect();
    let wide =
        format!("{head}  a: {{ foreach: [{}], kind: write, with: {{ {} }} }}\n", names.join(", "), params.join(", "));
    assert_eq!(say(&wide, &plain), "recipe::too-large");
    let uses: Vec<String> = (0..5000).map(|i| format!("p{i}: '${{big}}'")).collect();
    let big = format!(
        "vars: {{ big: [{}] }}\n{head}  a: {{ kind: write, with: {{ {} }} }}\n",
        names.join(", "),
        uses.join(", ")
    );
    assert_eq!(say(&big, &plain), "recipe::too-large");
    let stages: String =
        (0..3).map(|i| format!("  s{i}: {{ foreach: [{}], kind: write }}\n", names[..5000].join(", "))).collect();
    assert_eq!(say(&format!("{head}{stages}"), &plain), "recipe::too-large");
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "took {:?}", start.elapsed());
}

mod nothing_panics {
    use proptest::prelude::*;

    use super::super::world::prepare;
    use crate::recipe::{LoadOptions, parse_str};

    /// Pieces of recipes, put together in any order: nearer to what is read than random bytes are.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "flow: 1\n",
            "name: x\n",
            "stages:\n",
            "  a:\n",
            "    kind: write\n",
            "    with: { text: '${v}' }\n",
            "    foreach: domains\n",
            "    inputs: { parts: 'a[*]' }\n",
            "    inputs:\n",
            "      parts: [a, b]\n",
            "domains: { b: {} }\n",
            "public: {}\n",
            "vars: { v: [1, 2] }\n",
            "profiles: { nano: { vars: { v: null } } }\n",
            "defaults: { write: { times: 1e3 } }\n",
            "  b: *x\n",
            "  c: &x { kind: join }\n",
            "<<: ",
            "- ",
            "? ",
            "{",
            "}",
            "[",
            "]",
            ": ",
            "\"",
            "'",
            "|\n",
            ">-\n",
            "!include x\n",
            "!!str ",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "\t",
            "\u{feff}",
            "é\u{301}",
            "\0",
            "\r",
            " ",
            "\n",
            "0x",
            "1_000",
            "-.inf",
            "~",
            "\u{85}",
            "\u{2028}",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    fn read(text: &str, options: &LoadOptions) {
        match parse_str("r.yaml", text, options) {
            Ok(recipe) => drop(prepare(&recipe, &[])),
            Err(error) => {
                assert!(!error.render().is_empty());
                for (span, _) in error.diagnostics.iter().filter_map(|one| one.label.as_ref()) {
                    let text = error.sources.get(span.file).map_or("", |file| &file.text);
                    // A caret can be put under it.
                    assert!(text.get(span.start as usize..span.end as usize).is_some(), "{span:?} in {text:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn on_pieces_of_recipes(text in pieces(), path in "[a-z.0-9]{0,12}", value in "\\PC{0,8}") {
            read(&text, &LoadOptions { profiles: vec!["nano".into()], set: vec![(path, value)] });
            read(&text, &LoadOptions::default());
        }

        #[test]
        fn on_any_text(text in "(?s).{0,64}") {
            read(&text, &LoadOptions::default());
        }
    }
}
