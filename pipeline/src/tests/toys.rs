//! A handful of kinds that work on lines of text, with params of every shape.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    context::Context,
    error::StageError,
    misfit::Misfit,
    registry::Registry,
    stage::{Arity, DefaultCores, External, Forecast, Forecasts, Kind, NoPlaces, ResolveContext, Role},
    units::{Bytes, Count, Duration as Time, Tokens},
};

fn write(ctx: &Context, text: &str) -> Result<(), StageError> {
    fs_err::write(ctx.output().join("text"), text).map_err(|error| StageError::from_error(&error))
}

fn read(folder: &Path) -> Result<String, StageError> {
    fs_err::read_to_string(folder.join("text")).map_err(|error| StageError::from_error(&error))
}

/// How [`Write`] spells its text.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    #[default]
    AsItIs,
    Upper,
}

/// Params of every shape that a recipe can write.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteParams {
    /// What is written.
    text: String,
    /// How often.
    #[serde(default = "once")]
    times: Count,
    #[serde(default)]
    tokens: Tokens,
    #[serde(default)]
    size: Option<Bytes>,
    #[serde(default)]
    pause: Option<Time>,
    #[serde(default)]
    rate: f64,
    #[serde(default)]
    case: Case,
    #[serde(default)]
    tags: BTreeMap<String, Vec<u8>>,
}

fn once() -> Count {
    Count(1)
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WritePlaces {
    /// A file whose content comes first.
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    every: Option<Count>,
}

/// Writes a text.
pub struct Write;

impl Kind for Write {
    const NAME: &'static str = "write";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "writes a text";
    const MAKES: &'static str = "text";
    type Params = WriteParams;
    type Places = WritePlaces;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn check(params: &WriteParams) -> Result<(), Misfit> {
        if params.rate <= 1.0 {
            return Ok(());
        }
        Err(Misfit::param("rate", format!("`rate` is {}; it must be at most 1", params.rate))
            .with_help("it is a share"))
    }

    fn resolve(_: &WriteParams, places: &WritePlaces, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        let Some(file) = &places.file else { return Ok(Vec::new()) };
        let path = ctx.base.join(file);
        let digest = (ctx.hash)(&path).map_err(|error| StageError::from_error(&error))?;
        Ok(vec![External { identity: digest.into(), handle: path.display().to_string().into(), place: file.clone() }])
    }

    fn forecast(params: &WriteParams, _: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        forecast.facts.insert("lines".into(), params.times.0.into());
        forecast
    }

    fn run(ctx: &Context, params: WriteParams, _: WritePlaces) -> Result<(), StageError> {
        let mut text = String::new();
        for source in ctx.sources() {
            let path = source.handle.as_str().unwrap_or_default();
            text += &fs_err::read_to_string(path).map_err(|error| StageError::from_error(&error))?;
        }
        for _ in 0..params.times.0 {
            text += &params.text;
            text.push('\n');
        }
        ctx.progress(params.times.0, Some(params.times.0), "lines");
        ctx.metrics(serde_json::json!({ "loss": 0.1 }));
        write(ctx, &if matches!(params.case, Case::Upper) { text.to_uppercase() } else { text })
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinParams {
    /// Whether blank lines go and letters become small.
    #[serde(default)]
    tidy: bool,
}

/// Puts texts one after the other.
pub struct Join;

impl Kind for Join {
    const NAME: &'static str = "join";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "puts texts one after the other";
    const MAKES: &'static str = "text";
    type Params = JoinParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "parts", takes: &["text"], arity: Arity::Many, about: "the texts" },
            Role { name: "header", takes: &["text"], arity: Arity::Optional, about: "what comes first" },
        ]
    }

    fn forecast(_: &JoinParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: JoinParams, _: NoPlaces) -> Result<(), StageError> {
        let mut text = ctx.optional_input("header").map_or_else(|| Ok(String::new()), read)?;
        for part in ctx.inputs("parts") {
            text += &format!("{}: {}", part.label.as_deref().unwrap_or("?"), read(&part.path)?);
        }
        if params.tidy {
            text = text.lines().filter(|line| !line.ends_with(": ")).map(|line| line.to_lowercase() + "\n").collect();
        }
        write(ctx, &text)
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrimParams {}

/// Takes blanks off both ends: many inputs, one result.
pub struct Trim;

impl Kind for Trim {
    const NAME: &'static str = "trim";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "takes blanks away";
    const MAKES: &'static str = "text";
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = TrimParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "text", takes: &["text"], arity: Arity::One, about: "the text" }]
    }

    fn forecast(_: &TrimParams, inputs: &Forecasts) -> Forecast {
        inputs.get("text").and_then(|texts| texts.first()).map(|(_, forecast)| forecast.clone()).unwrap_or_default()
    }

    fn run(ctx: &Context, _: TrimParams, _: NoPlaces) -> Result<(), StageError> {
        write(ctx, read(ctx.input("text")?)?.trim())
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TallyParams {
    /// More lines than this cannot be counted.
    #[serde(default = "many")]
    most: u64,
}

fn many() -> u64 {
    100
}

/// Counts lines: what it makes is no text.
pub struct Tally;

impl Kind for Tally {
    const NAME: &'static str = "tally";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "counts lines";
    const MAKES: &'static str = "number";
    type Params = TallyParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "of", takes: &["text"], arity: Arity::One, about: "the lines" }]
    }

    fn fits(params: &TallyParams, inputs: &Forecasts) -> Result<(), Misfit> {
        let (_, text) = &inputs["of"][0];
        let lines = text.facts.get("lines").and_then(serde_json::Value::as_u64);
        match lines.filter(|lines| *lines > params.most) {
            None => Ok(()),
            Some(lines) => {
                Err(Misfit::param("most", format!("`most` is {}, and there are {lines} lines", params.most)))
            }
        }
    }

    fn forecast(_: &TallyParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, _: TallyParams, _: NoPlaces) -> Result<(), StageError> {
        write(ctx, &read(ctx.input("of")?)?.lines().count().to_string())
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OddParams {
    how: How,
}

/// What goes wrong.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    Fail,
    Panic,
    /// Other bytes each time.
    Dice,
    /// Writes to its first input.
    Meddle,
    /// Writes beside its output.
    Stray,
    /// Writes how many files it found in its scratch.
    Peek,
    /// Goes on until it is asked to stop, and the next time to its end; or until `go` is in its scratch.
    Wait,
}

/// Does what a stage should not.
pub struct Odd;

impl Kind for Odd {
    const NAME: &'static str = "odd";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "does what a stage should not";
    const MAKES: &'static str = "text";
    const SEEDED: bool = true;
    type Params = OddParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "after", takes: &["text"], arity: Arity::Any, about: "what it waits for" }]
    }

    fn forecast(_: &OddParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: OddParams, _: NoPlaces) -> Result<(), StageError> {
        static DICE: AtomicU64 = AtomicU64::new(0);
        write(ctx, "half of ")?;
        match params.how {
            How::Fail => Err(StageError::new("it did not work").with_help("try something else")),
            How::Panic => panic!("at the disco"),
            How::Meddle => {
                let file = ctx.inputs("after")[0].path.join("text");
                let size = fs_err::metadata(&file).map_err(|error| StageError::from_error(&error))?.len();
                let meddle = || {
                    fs_err::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
                    fs_err::write(&file, "x".repeat(size as usize))
                };
                meddle().map_err(|error| StageError::from_error(&error))
            }
            How::Stray => {
                let beside = ctx.output().with_file_name("elsewhere");
                fs_err::write(beside, "").map_err(|error| StageError::from_error(&error))
            }
            How::Peek => {
                let found = fs_err::read_dir(ctx.scratch()).map_err(|error| StageError::from_error(&error))?.count();
                write(ctx, &found.to_string())
            }
            How::Dice => write(ctx, &DICE.fetch_add(1, Ordering::SeqCst).to_string()),
            How::Wait => {
                let saved = ctx.scratch().join("saved");
                if !saved.exists() {
                    fs_err::write(&saved, "").map_err(|error| StageError::from_error(&error))?;
                    ctx.note("waiting");
                    while !ctx.is_cancelled() && !ctx.scratch().join("go").exists() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    ctx.check_cancelled()?;
                }
                write(ctx, "waited")
            }
        }
    }
}

/// All toys.
pub fn registry() -> Registry {
    Registry::new().with::<Write>().with::<Join>().with::<Trim>().with::<Tally>().with::<Odd>()
}
