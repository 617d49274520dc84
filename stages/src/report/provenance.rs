//! `ro-crate-metadata.json`, and the same as `provenance.json`: the folder and its making as an
//! [RO-Crate 1.1](https://w3id.org/ro/crate/1.1) that holds to the
//! [Process Run Crate 0.5](https://w3id.org/ro/wfrun/process/0.5), in the terms of schema.org. Every stage is a `CreateAction`
//! with the sources and artifacts that it took (`object`) and made (`result`), each known by its BLAKE3 digest. They are not in the
//! folder, so they are no data entities of it but works that it mentions.
//!
//! A crate must name a licence, which only the owner of the data can give: it says that none is stated.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    content::Content,
    escape::url,
    json::{sorted, text},
    lineage::Lineage,
};

/// What the crate says of actions holds to this.
const PROFILE: &str = "https://w3id.org/ro/wfrun/process/0.5";
const LICENCE: &str = "#licence";

pub(super) fn render(content: &Content, lineage: &Lineage) -> String {
    let mut graph = vec![json!({
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": { "@id": "./" },
        "conformsTo": { "@id": "https://w3id.org/ro/crate/1.1" },
    })];
    let files = files(content);
    let made: Option<&str> = lineage.stages.iter().filter_map(|stage| stage.started.as_deref()).max();
    let mut root = json!({
        "@id": "./",
        "@type": "Dataset",
        "name": format!("Report of {}", lineage.recipe),
        "description": format!("{} {}", lineage.summary(), lineage.numerics_sentence()),
        "hasPart": files.iter().map(|(path, _, _)| json!({ "@id": path })).collect::<Vec<_>>(),
        "conformsTo": { "@id": PROFILE },
        "license": { "@id": LICENCE },
        "mainEntity": { "@id": "report.html" },
    });
    if let (Some(made), Some(fields)) = (made, root.as_object_mut()) {
        fields.insert("datePublished".to_owned(), json!(made));
    }
    graph.push(root);
    graph.push(json!({ "@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5" }));
    graph.push(json!({
        "@id": LICENCE,
        "@type": "CreativeWork",
        "name": "No licence stated",
        "description": "Whoever owns the texts and the models decides on what others may do with this report; flow does not know.",
    }));
    for (path, format, name) in &files {
        graph.push(json!({ "@id": path, "@type": "File", "encodingFormat": format, "name": name }));
    }
    graph.push(json!({
        "@id": "#flow",
        "@type": "SoftwareApplication",
        "name": "flow",
        "softwareVersion": lineage.flow_version,
    }));
    let recipe_properties = properties(
        &mut graph,
        "#recipe",
        &[
            ("seed", json!(lineage.seed)),
            ("profile", json!(lineage.profile)),
            ("device", json!(lineage.numerics.device)),
            ("dtype", json!(lineage.numerics.dtype)),
            ("determinism", json!(lineage.numerics.promise)),
        ],
    );
    graph.push(json!({
        "@id": "#recipe",
        "@type": "SoftwareSourceCode",
        "name": lineage.recipe,
        "encodingFormat": "application/json",
        "text": lineage.recipe_text,
        "version": format!("blake3:{}", lineage.recipe_digest),
        "additionalProperty": recipe_properties,
    }));

    let mut artifacts = BTreeSet::new();
    for stage in &lineage.stages {
        artifacts.insert((stage.artifact.as_str(), Some(stage.bytes), Some(stage.name.as_str())));
        for (_, digest) in &stage.inputs {
            if lineage.maker(digest).is_none() {
                artifacts.insert((digest, None, None));
            }
        }
        let sources = stage.sources.iter().map(|source| source_id(&source.digest));
        let mut objects: Vec<String> =
            stage.inputs.iter().map(|(_, digest)| artifact_id(digest)).chain(sources).collect();
        objects.dedup();
        let objects: Vec<Value> = objects.into_iter().map(|id| json!({ "@id": id })).collect();
        // One value stands alone: so the crate's recommendations want it.
        let objects = if let [one] = objects.as_slice() { one.clone() } else { Value::Array(objects) };
        let roles: Vec<String> = stage.inputs.iter().map(|(role, digest)| format!("{role}=blake3:{digest}")).collect();
        let mut facts = vec![
            ("key", json!(stage.key)),
            ("kind", json!(stage.kind)),
            ("kind_version", json!(stage.kind_version)),
            ("params", json!(sorted(&stage.params).to_string())),
            ("seconds", json!(stage.seconds)),
            ("cached", json!(stage.cached)),
            ("roles", json!(roles.join(" "))),
        ];
        facts.extend(stage.host.as_ref().map(|host| ("host", json!(host))));
        if let Some(accepted) = &stage.accepted {
            facts.push(("accepted", json!(accepted.reason)));
            facts.push(("accepted_changes", json!(accepted.changes.join("; "))));
            facts.push(("made_for", json!(accepted.made_for)));
        }
        let properties = properties(&mut graph, &stage_id(&stage.name), &facts);
        let mut action = json!({
            "@id": stage_id(&stage.name),
            "@type": "CreateAction",
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "additionalProperty": properties,
            "instrument": [{ "@id": "#flow" }, { "@id": "#recipe" }],
            "name": stage.name,
            "description": format!("Stage {} of {}, of the kind {}", stage.name, lineage.recipe, stage.kind),
            "object": objects,
            "result": { "@id": artifact_id(&stage.artifact) },
        });
        if let (Some(started), Some(fields)) = (&stage.started, action.as_object_mut()) {
            fields.insert("startTime".to_owned(), json!(started));
        }
        if let (Some(ended), Some(fields)) = (&stage.ended, action.as_object_mut()) {
            fields.insert("endTime".to_owned(), json!(ended));
        }
        graph.push(action);
    }
    let mut seen = BTreeSet::new();
    for (digest, bytes, stage) in artifacts {
        // Two stages may make the same bytes: one artifact.
        if seen.insert(digest) {
            let mut artifact = json!({
                "@id": artifact_id(digest),
                "@type": "CreativeWork",
                "identifier": format!("blake3:{digest}"),
                "name": stage.map_or_else(|| "artifact of another run".to_owned(), |stage| format!("artifact of {stage}")),
            });
            if let (Some(bytes), Some(fields)) = (bytes, artifact.as_object_mut()) {
                fields.insert("contentSize".to_owned(), json!(bytes.to_string()));
            }
            graph.push(artifact);
        }
    }
    sources(&mut graph, lineage);
    mention(&mut graph);
    text(&json!({ "@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph }))
}

/// An entity for each source. The same bytes in two places are one.
fn sources(graph: &mut Vec<Value>, lineage: &Lineage) {
    let mut places: BTreeMap<&str, (BTreeSet<&str>, &str)> = BTreeMap::new();
    for (source, _) in lineage.sources() {
        let (places, _) = places.entry(&source.digest).or_insert_with(|| (BTreeSet::new(), &source.identity));
        places.insert(&source.place);
    }
    for (digest, (places, identity)) in places {
        graph.push(json!({
            "@id": source_id(digest),
            "@type": "CreativeWork",
            "identifier": format!("blake3:{digest}"),
            "name": places.into_iter().collect::<Vec<_>>().join(", "),
            "description": format!("A source outside of flow: {identity}"),
        }));
    }
}

/// The root mentions all actions, and all works that are not in the folder.
fn mention(graph: &mut [Value]) {
    let is_meant = |entity: &&Value| {
        let id = entity["@id"].as_str().unwrap_or_default();
        entity["@type"] == "CreateAction" || id.starts_with("#artifact/") || id.starts_with("#source/")
    };
    let mentions: Vec<Value> = graph.iter().filter(is_meant).map(|entity| json!({ "@id": entity["@id"] })).collect();
    if let Some(root) = graph.iter_mut().find(|entity| entity["@id"] == "./") {
        root["mentions"] = Value::Array(mentions);
    }
}

/// (path, media type, name) of what the folder holds.
fn files(content: &Content) -> Vec<(String, &'static str, String)> {
    let mut files = vec![
        ("report.md".to_owned(), "text/markdown", "The report as Markdown".to_owned()),
        ("report.html".to_owned(), "text/html", "The report as a page".to_owned()),
    ];
    for figure in &content.figures {
        files.push((format!("figures/{}.svg", figure.id), "image/svg+xml", figure.caption.clone()));
    }
    for table in content.tables() {
        for (end, format) in [("tex", "application/x-tex"), ("csv", "text/csv"), ("json", "application/json")] {
            files.push((format!("tables/{}.{end}", table.id), format, table.caption.clone()));
        }
    }
    files
}

/// Adds an entity for each fact, since an RO-Crate is flat, and returns the references to them. A fact without a value is
/// left out.
fn properties(graph: &mut Vec<Value>, owner: &str, facts: &[(&str, Value)]) -> Vec<Value> {
    let mut references = Vec::new();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_null()) {
        let id = format!("{owner}/{name}");
        references.push(json!({ "@id": id }));
        graph.push(json!({ "@id": id, "@type": "PropertyValue", "name": name, "value": value }));
    }
    references
}

fn stage_id(name: &str) -> String {
    format!("#stage/{}", url(name))
}

fn source_id(digest: &str) -> String {
    format!("#source/{}", url(digest))
}

fn artifact_id(digest: &str) -> String {
    format!("#artifact/{}", url(digest))
}
