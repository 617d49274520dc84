//! Every rendering against a file, the sentences against the numbers, and text that tries to leave its place.

use std::{collections::BTreeMap, path::Path};

use super::{headline::Verdict, sample, *};

/// Compares with the file of that name; with `FLOW_UPDATE_SAMPLES` set it writes the file instead.
fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/report").join(name);
    if std::env::var_os("FLOW_UPDATE_SAMPLES").is_some() {
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, text).unwrap();
    }
    assert_eq!(text, fs_err::read_to_string(&file).unwrap(), "{name}");
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
        } else {
            found.insert(name, fs_err::read_to_string(&path).unwrap());
        }
    }
    found
}

fn written(input: &ReportInput, lineage: &Lineage) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let content = build(input);
    write_tables(&content, folder.path()).unwrap();
    write_pages(&content, lineage, folder.path()).unwrap();
    files(folder.path())
}

#[test]
fn every_file_of_a_report() {
    let files = written(&sample::input(), &sample::lineage());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    golden("files.txt", &(names.join("\n") + "\n"));
    for name in [
        "report.md",
        "report.html",
        "provenance.json",
        "figures/loss-experts.svg",
        "tables/results-bits-per-byte.tex",
        "tables/results-bits-per-byte.csv",
        "tables/results-bits-per-byte.json",
        "tables/opt-out-cloze.tex",
        "tables/opt-out-cloze.csv",
        "tables/opt-out-cloze.json",
        "tables/intervals-cloze.csv",
        "tables/corpora.csv",
        "tables/training.tex",
    ] {
        golden(name, &files[name]);
    }
    assert_eq!(files, written(&sample::input(), &sample::lineage()), "the same twice");
}

#[test]
fn tables_do_not_know_when_or_where() {
    let mut later = sample::lineage();
    for stage in &mut later.stages {
        stage.started = Some("2030-01-01T00:00:00Z".into());
        stage.host = Some("elsewhere".into());
        stage.seconds += 1.0;
    }
    let tables = |lineage: &Lineage| {
        let files = written(&sample::input(), lineage).into_iter();
        files
            .filter(|(name, _)| name.starts_with("tables/") || name.starts_with("figures/"))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(tables(&sample::lineage()), tables(&later));
}

#[test]
fn the_order_of_the_input_does_not_matter_where_it_should_not() {
    let input = sample::input();
    let mut other = input.clone();
    other.members.reverse();
    other.results[..4].reverse();
    other.results[7..].reverse();
    assert_eq!(build(&input), build(&other));
}

fn table_of(input: &ReportInput, id: &str) -> Table {
    build(input).tables().find(|table| table.id == id).unwrap().clone()
}

#[test]
fn the_main_table_has_the_papers_shape() {
    let table = table_of(&sample::input(), "results-bits-per-byte");
    let columns: Vec<&str> = table.columns.iter().map(|c| c.title.as_str()).collect();
    assert_eq!(columns, ["Public", "C", "Legal", "Rust", "Avg."]);
    let rows: Vec<(&str, &str)> = table.rows().map(|(group, row)| (group.unwrap(), row.title.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("Individual", "Public"),
            ("Individual", "C"),
            ("Individual", "Legal"),
            ("Individual", "Rust"),
            ("Combined", "Model soup"),
            ("Combined", "BTM (top-2)"),
            ("Combined", "FlexOlmo"),
        ]
    );
    let legal: Vec<(&str, Mark)> =
        table.rows().map(|(_, row)| (row.cells[2].text.as_str(), row.cells[2].mark)).collect();
    assert_eq!(legal[2], ("0.931", Mark::Best));
    assert_eq!(legal[5], ("0.931", Mark::Best), "0.9312 looks like 0.931");
    assert_eq!(legal[6], ("0.940", Mark::Second));
}

#[test]
fn the_opt_out_matrix_is_about_its_diagonal() {
    let table = table_of(&sample::input(), "opt-out-bits-per-byte");
    let rust = table.rows().find(|(_, row)| row.title == "Rust").unwrap().1;
    let cells: Vec<(&str, Tone, bool)> = rust.cells.iter().map(|c| (c.text.as_str(), c.tone, c.is_own)).collect();
    assert_eq!(
        cells,
        [
            ("+0.001", Tone::None, false),
            ("+0.003", Tone::None, false),
            ("+0.001", Tone::None, false),
            ("+0.497*", Tone::Worse, true),
            ("+0.002", Tone::None, false),
            ("+0.126*", Tone::Worse, false),
        ]
    );
}

#[test]
fn a_defeat_is_called_one() {
    let mut input = sample::input();
    let verdicts = |input: &ReportInput| {
        let headlines = build(input).headlines.into_iter();
        headlines.map(|h| (h.claim, h.verdict, h.text)).collect::<Vec<_>>()
    };
    let before = verdicts(&input);
    assert_eq!(before[0].0, "Bits per byte: FlexOlmo is better than the public model");
    assert_eq!(before[0].1, Verdict::Holds);
    assert_eq!(before[2].1, Verdict::Undecided, "against BTM: {}", before[2].2);

    let flexolmo = input.results.iter_mut().find(|model| model.label == "flexolmo").unwrap();
    for domain in flexolmo.evaluation.domains.values_mut() {
        let worse = |e: Estimate| Estimate { value: e.value + 1.0, low: e.low + 1.0, high: e.high + 1.0 };
        domain.bits_per_byte = domain.bits_per_byte.map(worse);
    }
    flexolmo.evaluation.average.bits_per_byte = flexolmo.evaluation.average.bits_per_byte.map(|value| value + 1.0);
    let after = verdicts(&input);
    assert_eq!(after[0].1, Verdict::Fails);
    assert!(
        after[0].2.contains("% more") && after[0].2.ends_with("FlexOlmo loses to the public model."),
        "{}",
        after[0].2
    );
    assert_eq!(after[0].2.matches("better in 1 of the 4 domains").count(), 1, "{}", after[0].2);
}

/// 0 is no tenth of 0.
#[test]
fn what_loses_nothing_tells_nothing() {
    let mut input = sample::input();
    let full = input.results.iter().find(|model| model.label == "flexolmo").unwrap().evaluation.clone();
    let of = |input: &ReportInput| {
        let headlines = build(input).headlines.into_iter();
        headlines.filter(|headline| headline.claim.contains("other domains stay")).collect::<Vec<_>>()
    };
    assert!(of(&input).iter().all(|headline| headline.verdict == Verdict::Holds), "{:?}", of(&input));
    for model in input.results.iter_mut().filter(|model| model.left_out.is_some()) {
        model.evaluation = full.clone();
    }
    let told = of(&input);
    assert_eq!(told.len(), 2);
    for headline in told {
        assert!(headline.verdict == Verdict::Undecided && headline.text.contains("cannot tell"), "{headline:?}");
    }
}

#[test]
fn a_run_without_results_has_a_report() {
    let files = written(&ReportInput::default(), &Lineage::default());
    assert!(files["report.md"].contains("## Provenance"));
    assert_eq!(files.keys().filter(|name| name.starts_with("tables/")).count(), 3);
}

#[test]
fn a_model_that_was_not_measured_somewhere_leaves_a_gap() {
    let mut input = sample::input();
    input.results[0].evaluation.domains.remove("legal");
    input.results[4].evaluation.domains.clear();
    input.results[4].evaluation.average = Average::default();
    let table = table_of(&input, "results-cloze");
    let soup = table.rows().find(|(_, row)| row.key == "soup").unwrap().1;
    assert!(soup.cells.iter().all(|cell| cell.text == "–" && cell.raw == Raw::Missing));
    written(&input, &sample::lineage());
}

/// Puts the same hostile text into every field that a person can write.
fn hostile(text: &str) -> (ReportInput, Lineage) {
    let (mut input, mut lineage) = (sample::input(), sample::lineage());
    let text = || text.to_owned();
    input.members.iter_mut().for_each(|member| member.title = text());
    input.results.iter_mut().for_each(|model| model.title = text());
    for model in &mut input.results {
        let domain = model.evaluation.domains.values().next().copied().unwrap();
        model.evaluation.domains.insert(text(), domain);
    }
    input.corpora.insert(text(), serde_json::json!({ text(): 1, "dropped": { text(): 2 } }));
    input.training.push(TrainingRun { label: text(), ..input.training[1].clone() });
    lineage.recipe = text();
    lineage.profile = Some(text());
    lineage.numerics = Numerics { device: text(), dtype: text(), promise: text() };
    lineage.recipe_text = text();
    for stage in &mut lineage.stages {
        stage.name = text();
        stage.kind = text();
        stage.key = text();
        stage.artifact = text();
        stage.inputs = vec![(text(), text())];
        stage.sources = vec![SourceLine { digest: text(), place: text(), identity: text() }];
        stage.host = Some(text());
        stage.started = Some(text());
        stage.accepted = Some(AcceptedLine { reason: text(), made_for: Some(text()), changes: vec![text()] });
        stage.params = serde_json::json!({ text(): text() });
    }
    (input, lineage)
}

#[test]
fn hostile_text_stays_text() {
    let text = "</title></style></pre><script>alert(1)</script>\"' onload=\"x\" <img src=x onerror=alert(1)>\n\n```\n# h\n| x | $y_1$ \\input{z} %";
    let (input, lineage) = hostile(text);
    let files = written(&input, &lineage);

    for name in ["report.html", "figures/loss-experts.svg"] {
        let page = &files[name];
        for bad in ["<script", "<img", "</title></style>", "\" onload="] {
            assert!(!page.contains(bad), "{bad} in {name}");
        }
        let tags = page.split('<').skip(1).map(|rest| rest.split(['>', ' ', '\n']).next().unwrap());
        for tag in tags {
            let known = [
                "!doctype",
                "html",
                "head",
                "meta",
                "title",
                "style",
                "body",
                "header",
                "h1",
                "h2",
                "p",
                "nav",
                "ul",
                "li",
                "a",
                "main",
                "section",
                "span",
                "strong",
                "u",
                "div",
                "table",
                "caption",
                "thead",
                "tbody",
                "tr",
                "th",
                "td",
                "details",
                "summary",
                "figure",
                "figcaption",
                "svg",
                "g",
                "path",
                "text",
                "code",
                "pre",
                "dl",
                "dt",
                "dd",
            ];
            assert!(known.contains(&tag.trim_start_matches('/')), "<{tag}> in {name}");
        }
    }

    let mut fence: Option<String> = None;
    for line in files["report.md"].lines() {
        let ticks: String = line.chars().take_while(|c| *c == '`').collect();
        match &fence {
            Some(open) if ticks.len() >= open.len() && line.len() == ticks.len() => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                assert!(!line.contains("<script") && !line.contains("<img"), "{line}");
                assert!(!line.starts_with("# h"), "{line}");
            }
        }
    }
    assert_eq!(fence, None, "every fence is closed");

    for (name, text) in &files {
        match name.rsplit('.').next().unwrap() {
            "json" => drop(serde_json::from_str::<serde_json::Value>(text).unwrap()),
            "tex" => {
                assert!(!text.contains("\\input"), "{name}");
                let bare = text.lines().filter(|l| !l.starts_with('%')).any(|l| l.replace("\\%", "").contains('%'));
                assert!(!bare, "{name} holds a comment sign");
            }
            "csv" => {
                let quotes = text.matches('"').count();
                assert_eq!(quotes % 2, 0, "{name}");
            }
            _ => {}
        }
    }
}

#[test]
fn provenance_is_flat_and_every_reference_is_answered() {
    let files = written(&sample::input(), &sample::lineage());
    let crate_: serde_json::Value = serde_json::from_str(&files["provenance.json"]).unwrap();
    let graph = crate_["@graph"].as_array().unwrap();
    let mut ids = BTreeMap::new();
    for entity in graph {
        assert!(ids.insert(entity["@id"].as_str().unwrap(), entity).is_none(), "{} twice", entity["@id"]);
    }
    let is_known = |reference: &str| ids.contains_key(reference) || reference.starts_with("http");
    for entity in graph {
        for (name, value) in entity.as_object().unwrap() {
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            for value in values {
                if let Some(object) = value.as_object() {
                    assert_eq!(object.len(), 1, "{name} is not flat");
                    let reference = object["@id"].as_str().unwrap();
                    assert!(is_known(reference), "{reference} of {name}");
                }
            }
        }
    }
    for part in ids["./"]["hasPart"].as_array().unwrap() {
        assert!(files.contains_key(part["@id"].as_str().unwrap()), "{part}");
    }
}

/// What RO-Crate 1.1 and the Process Run Crate 0.5 ask for by MUST, and what of the SHOULDs flow can know.
#[test]
fn the_folder_is_a_crate() {
    let files = written(&sample::input(), &sample::lineage());
    assert_eq!(files["ro-crate-metadata.json"], files["provenance.json"]);
    let crate_: serde_json::Value = serde_json::from_str(&files["ro-crate-metadata.json"]).unwrap();
    assert_eq!(crate_["@context"], "https://w3id.org/ro/crate/1.1/context");
    let graph = crate_["@graph"].as_array().unwrap();
    let entity = |id: &str| graph.iter().find(|entity| entity["@id"] == id).unwrap();
    let descriptor = entity("ro-crate-metadata.json");
    assert_eq!((&descriptor["@type"], &descriptor["about"]["@id"]), (&"CreativeWork".into(), &"./".into()));
    assert_eq!(descriptor["conformsTo"]["@id"], "https://w3id.org/ro/crate/1.1");
    let root = entity("./");
    for must in ["name", "description", "datePublished"] {
        assert!(root[must].as_str().is_some_and(|text| !text.is_empty()), "{must}");
    }
    for linked in ["license", "conformsTo"] {
        let linked = entity(root[linked]["@id"].as_str().unwrap());
        assert!(linked["@type"] == "CreativeWork" && linked["name"].is_string(), "{linked}");
    }
    // What was read and made is not in the folder: works that it mentions, each by its digest.
    for work in graph.iter().filter(|entity| entity["identifier"].is_string()) {
        assert_eq!(work["@type"], "CreativeWork", "{work}");
        assert!(root["mentions"].as_array().unwrap().iter().any(|mention| mention["@id"] == work["@id"]), "{work}");
    }
    let curate = entity("#stage/corpus%5Brust%5D");
    let source = entity(curate["object"]["@id"].as_str().unwrap());
    let SourceLine { digest, place, .. } = sample::lineage().stages[0].sources[0].clone();
    assert_eq!((&source["name"], &source["identifier"]), (&place.clone().into(), &format!("blake3:{digest}").into()));
    for page in ["report.md", "report.html"] {
        assert!(files[page].contains(&digest) && files[page].contains(&place), "{page}");
    }
    assert!(entity("#recipe")["encodingFormat"] == "application/json" && entity("#recipe")["version"].is_string());
    let mentioned: Vec<&str> = root["mentions"].as_array().unwrap().iter().filter_map(|m| m["@id"].as_str()).collect();
    let actions = graph.iter().filter(|entity| entity["@type"] == "CreateAction");
    assert_eq!(actions.clone().count(), sample::lineage().stages.len());
    for action in actions {
        assert!(mentioned.contains(&action["@id"].as_str().unwrap()), "{action}");
        assert!(action["instrument"].as_array().is_some_and(|tools| !tools.is_empty()), "{action}");
        assert_eq!(action["actionStatus"], "http://schema.org/CompletedActionStatus");
        let time = |name: &str| action[name].as_str().unwrap().to_owned();
        assert!(time("startTime") < time("endTime"), "{action}");
        assert!(action["object"].as_array().is_none_or(|objects| objects.len() != 1), "{action}");
    }
}

#[test]
fn the_evaluate_stages_own_file_is_read() {
    let text = r#"{"average": {"bits_per_byte": 1.5, "cloze": null},
        "domains": {"rust": {"bits_per_byte": {"high": 1.6, "low": 1.4, "value": 1.5}, "bytes": 9, "cloze": null,
        "documents": 1, "items": 0, "tokens": 4}}, "format": 1, "model": {"experts": [], "label": "public", "top_k": null}}"#;
    let evaluation: Evaluation = serde_json::from_str(text).unwrap();
    assert_eq!(evaluation.domains["rust"].bits_per_byte.unwrap().low, 1.4);
    assert_eq!(evaluation.average.cloze, None);
}
