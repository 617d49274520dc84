//! `flow cache push` and `pull`: between this store and the one behind it.

use std::process::ExitCode;

use flow_cache::{Cache, Location, Moved, Record, StageKey};
use flow_pipeline::{
    chain,
    plan::{Reason, Verdict, WrittenStage},
};
use serde_json::json;

use super::super::planning;
use crate::{
    cli::TransferArgs,
    failure::{Ended, Failure},
    view::{
        self,
        numbers::{bytes, counted},
    },
};

/// Uploads what a recipe reaches, or all that is on record here.
pub async fn push(args: &TransferArgs, json: bool) -> Ended {
    let cache = open(args, true).await?;
    let records = match of_recipe(args, &cache).await? {
        Some(keys) => cache.records_of(&keys).await?,
        None => cache.local_records().await?,
    };
    let mut sum = Sum::new("Pushed", json);
    for record in &records {
        sum.add(record, cache.push(record).await);
    }
    Ok(sum.end(&cache))
}

/// Fetches what a recipe reaches, or all that is on record there.
pub async fn pull(args: &TransferArgs, json: bool) -> Ended {
    let cache = open(args, false).await?;
    let keys = match of_recipe(args, &cache).await? {
        Some(keys) => keys,
        None => cache.remote_keys().await?.into_iter().collect(),
    };
    let mut sum = Sum::new("Pulled", json);
    for record in &cache.records_of(&keys).await? {
        sum.add(record, cache.pull(record).await);
    }
    Ok(sum.end(&cache))
}

/// Opens both stores. The one that is read must be there: a name that was mistyped makes no empty store.
async fn open(args: &TransferArgs, pushes: bool) -> Result<Cache, Failure> {
    let Some(remote) = &args.store.remote else {
        let help = "`--remote s3://bucket/prefix`, or the variable FLOW_REMOTE, names the store behind this one";
        return Err(Failure::usage("no store is named to push to or pull from", Some(help.to_owned())));
    };
    if pushes {
        drop(planning::open_existing(&args.store.store)?);
    } else if let Location::Folder(folder) = remote.parse()?
        && !folder.is_dir()
    {
        let message = format!("there is no store in {}", folder.display());
        return Err(Failure::usage(message, "`--remote` names the store to pull from".to_owned()));
    }
    planning::open(&args.store).await
}

/// The keys of a recipe's stages that are on record here or there; nothing where no recipe was given.
async fn of_recipe(args: &TransferArgs, cache: &Cache) -> Result<Option<Vec<StageKey>>, Failure> {
    let Some(recipe) = args.recipe.given() else { return Ok(None) };
    let plan = planning::planned(&planning::load(&recipe)?, &args.stages, cache, &args.device).await?;
    // Without its bytes a record still gives the keys of what was made of it.
    let is_recorded = |stage: &&WrittenStage| {
        matches!(stage.verdict, Verdict::Cached { .. } | Verdict::Run { reason: Reason::Evicted, .. })
    };
    let keys: Vec<StageKey> = plan.stages.iter().filter(is_recorded).filter_map(WrittenStage::key).collect();
    let waits = plan.stages.iter().filter(|stage| stage.key().is_none()).count();
    let left = plan.stages.len() - keys.len() - waits;
    if left > 0 {
        let are = if left == 1 { "is" } else { "are" };
        let waits = match waits {
            0 => String::new(),
            1 => "; 1 is made of them, so that it cannot be looked for".to_owned(),
            waits => format!("; {waits} are made of them, so that they cannot be looked for"),
        };
        view::terminal::remark(&format!("{left} of the {} stages {are} in neither store{waits}", plan.stages.len()));
    }
    Ok(Some(keys))
}

/// What all came to.
struct Sum {
    verb: &'static str,
    json: bool,
    records: u64,
    moved: Moved,
    failed: u64,
    absent: u64,
}

impl Sum {
    fn new(verb: &'static str, json: bool) -> Self {
        Self { verb, json, records: 0, moved: Moved::default(), failed: 0, absent: 0 }
    }

    fn add(&mut self, record: &Record, outcome: Result<Moved, flow_cache::Error>) {
        match outcome {
            Ok(moved) => {
                self.records += 1;
                self.absent += u64::from(moved.bare);
                self.moved.blobs += moved.blobs;
                self.moved.bytes += moved.bytes;
                self.moved.already += moved.already;
                if self.json {
                    view::json::line(&json!({
                        "stage": record.stage, "key": record.key, "artifact": record.artifact, "blobs": moved.blobs,
                        "bytes": moved.bytes, "already": moved.already, "conflict": moved.conflict, "bare": moved.bare,
                    }));
                    return;
                }
                if moved.conflict {
                    view::terminal::warning(&format!(
                        "{}: another artifact is on record there, and stays",
                        record.stage
                    ));
                }
                let text = if moved.bare {
                    "its record, as bytes of it are gone".to_owned()
                } else if moved.blobs == 0 {
                    "was there".to_owned()
                } else {
                    format!("{} in {}", bytes(moved.bytes), counted(moved.blobs as usize, "blob"))
                };
                view::terminal::done(self.verb, &format!("{}: {text}", record.stage));
            }
            Err(error) => {
                self.failed += 1;
                let error = chain(&error);
                if self.json {
                    view::json::line(&json!({ "stage": record.stage, "key": record.key, "error": error }));
                } else {
                    view::terminal::warning(&format!("{}: failed to {error}", record.stage));
                }
            }
        }
    }

    fn end(self, cache: &Cache) -> ExitCode {
        let Self { verb, json, records, moved, failed, absent } = self;
        if json {
            view::json::line(&json!({
                "records": records, "blobs": moved.blobs, "bytes": moved.bytes, "already": moved.already,
                "failed": failed, "absent": absent,
            }));
        } else {
            let absent = if absent > 0 { format!("; of {absent} only the record") } else { String::new() };
            let failed = if failed > 0 {
                format!("; {failed} failed, the same command goes on with them")
            } else {
                String::new()
            };
            let text = format!(
                "{}, {} in {}, {} there before ({}){absent}{failed}",
                counted(records as usize, "record"),
                bytes(moved.bytes),
                counted(moved.blobs as usize, "blob"),
                moved.already,
                cache.remote_name().unwrap_or_default()
            );
            let nothing = records == 0 && failed.is_empty() && absent.is_empty();
            view::terminal::done(verb, &text);
            if nothing {
                view::terminal::warning("nothing was on record there to move");
            }
        }
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
