//! A stage that makes files out of its params and its inputs in a few milliseconds, and writes down outside of the store that it
//! was there.

use std::{io::Write, path::Path, thread, time::Duration};

use flow_pipeline::{
    StageError,
    context::Context,
    registry::Registry,
    stage::{Arity, Forecast, Forecasts, Kind, Role},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeParams {
    text: String,
    #[serde(default)]
    files: u64,
    /// A millisecond each; the last one is saved.
    #[serde(default)]
    steps: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MakePlaces {
    /// Where it writes down that it was there.
    side: String,
}

pub struct Make;

impl Kind for Make {
    const NAME: &'static str = "make";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "makes files";
    const MAKES: &'static str = "files";
    type Params = MakeParams;
    type Places = MakePlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "of", takes: &["files"], arity: Arity::Any, about: "what it is made of" }]
    }

    fn forecast(_: &MakeParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: MakeParams, places: MakePlaces) -> Result<(), StageError> {
        let said = |word: &str| say(&places.side, word, &params.text);
        let done = |error: std::io::Error| StageError::from_error(&error);
        said("begin").map_err(done)?;
        let saved = ctx.scratch().join("at");
        let from: u64 = fs_err::read_to_string(&saved).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        for step in from..params.steps {
            ctx.check_cancelled()?;
            fs_err::write(ctx.scratch().join("part"), (step + 1).to_string()).map_err(done)?;
            fs_err::rename(ctx.scratch().join("part"), &saved).map_err(done)?;
            ctx.progress(step + 1, Some(params.steps), "steps");
            thread::sleep(Duration::from_millis(1));
        }
        let mut content = blake3::Hasher::new();
        content.update(params.text.as_bytes());
        for tree in ctx.inputs("of") {
            content.update(tree.label.as_deref().unwrap_or_default().as_bytes());
            read(&tree.path, &mut content).map_err(done)?;
        }
        for file in 0..params.files.max(1) {
            let mut bytes = vec![0; 10 + 3000 * file as usize];
            content.clone().update(&file.to_le_bytes()).finalize_xof().fill(&mut bytes);
            let folder = ctx.output().join(file.to_string());
            fs_err::create_dir_all(&folder).and_then(|()| fs_err::write(folder.join("file"), bytes)).map_err(done)?;
        }
        said("end").map_err(done)
    }
}

/// One write of one line: others write to the same file.
fn say(side: &str, word: &str, text: &str) -> std::io::Result<()> {
    let mut file = fs_err::OpenOptions::new().create(true).append(true).open(side)?;
    file.write_all(format!("{word} {text} {}\n", std::process::id()).as_bytes())
}

fn read(folder: &Path, content: &mut blake3::Hasher) -> std::io::Result<()> {
    let mut paths: Vec<_> = fs_err::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, content)?;
        } else {
            content.update(&fs_err::read(path)?);
        }
    }
    Ok(())
}

pub fn registry() -> Registry {
    Registry::new().with::<Make>()
}
