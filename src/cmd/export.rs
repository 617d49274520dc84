//! `flow export`: the model of a stage as a folder that other programs read. It takes what is in the cache and runs nothing.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use flow_cache::{ArtifactDigest, Cache, Holder, plain};
use flow_pipeline::{
    Error,
    plan::{Plan, PreparedStage},
    recipe::Recipe,
};
use flow_stages::interop::{self, Description, Holds, Options, Source};
use fs_err as fs;

use super::{import, looking, planning};
use crate::{
    cli::{ExportArgs, ExportDtype, ExportFormat},
    failure::{Ended, Failure},
    machine, view,
};

/// Runs the command.
pub fn export(args: &ExportArgs, json: bool) -> Ended {
    let ExportFormat::Hf = args.format;
    check_free(&args.out)?;
    let cores = machine::capacity(args.device.threads, 0).cores;
    interop::start(cores as usize).map_err(|trouble| import::failure(trouble, "start"))?;
    let recipe = planning::load(&args.recipe)?;
    let registry = flow_stages::registry();
    let written = planning::runtime()?.block_on(async {
        let cache = looking::open_to_take(&args.store).await?;
        let prepared = planning::prepare(&recipe, &registry, &cache, std::slice::from_ref(&args.stage))?;
        let plan = planning::plan(prepared, &cache, planning::chosen_numerics(&recipe, &args.device)?, &[]).await?;
        let stage = chosen(&plan, args)?;
        write(&recipe, &plan, stage, &cache, args).await
    })?;
    if json {
        view::json::pretty(&written);
    } else {
        import::show("exported", &written);
    }
    Ok(ExitCode::SUCCESS)
}

/// The one stage that the command line names, as a place in the plan: its kind makes a model.
fn chosen(plan: &Plan, args: &ExportArgs) -> Result<usize, Failure> {
    let wanted = planning::stage_ids(std::slice::from_ref(&args.stage))?;
    let is = |stage: &PreparedStage| {
        wanted.iter().any(|id| stage.id == *id || (id.instance().is_none() && stage.id.base() == id.base()))
    };
    let found: Vec<usize> = (0..plan.stages().len()).filter(|at| plan.stages().get(*at).is_some_and(is)).collect();
    let [at] = found[..] else {
        let names: Vec<String> =
            found.iter().filter_map(|at| plan.stages().get(*at)).map(|stage| stage.id.to_string()).collect();
        let message = format!("`{}` stands for {} stages; one model is exported at a time", args.stage, found.len());
        return Err(Failure::usage(message, format!("name one of them: {}", names.join(", "))));
    };
    Ok(at)
}

/// Puts the stage's artifact aside, exports it and gives the folder its name: it is there whole or not at all.
async fn write(
    recipe: &Recipe,
    plan: &Plan,
    at: usize,
    cache: &Cache,
    args: &ExportArgs,
) -> Result<Description, Failure> {
    let stage = &plan.stages()[at];
    let Some(holds) = interop::held_by(stage.kind) else {
        let message = format!("`{}` is of the kind `{}`, whose artifact is no model", stage.id, stage.kind);
        let help = "export a stage of the kind `pretrain`, `import-model`, `merge` or `soup`, or a `train-expert`, which \
                    gives the dense model with that expert";
        return Err(Failure::usage(message, help.to_owned()));
    };
    let artifact = cached(recipe, plan, at, args)?;
    let aside = Aside::beside(&args.out)?;
    // An artifact may be as large as what is written, and linked it takes no room. A store that only can be read has no such place.
    let laid_out = Aside::make(cache.room_to_lay_out()).ok();
    let room = |name: &str| laid_out.as_ref().unwrap_or(&aside).path(name);
    let (model, public) = (room("artifact"), room("public"));
    cache.materialize(&artifact, &model).await?;
    let scratch = aside.path("dense");
    let source = match holds {
        Holds::Model => Source::Model(&model),
        Holds::Expert { public: role } => {
            // The plan has checked that the role is filled.
            if let Some(input) = stage.inputs.iter().find(|input| input.role == role) {
                cache.materialize(&cached(recipe, plan, input.stage, args)?, &public).await?;
            }
            Source::Expert { bundle: &model, public: &public, scratch: &scratch }
        }
    };
    let dtype = args.dtype.map(|dtype| match dtype {
        ExportDtype::F32 => interop::Dtype::F32,
        ExportDtype::Bf16 => interop::Dtype::Bf16,
    });
    let options = Options { dtype, shard_bytes: args.shard_bytes.0, drop_bias: args.drop_bias };
    let out = aside.path("model");
    fs::create_dir(&out).map_err(Error::io("write the model"))?;
    let mut written = interop::export(source, &out, options).map_err(|trouble| import::failure(trouble, "export"))?;
    publish(&out, &args.out)?;
    written.path.clone_from(&args.out);
    Ok(written)
}

/// The artifact of a stage, which must be there.
fn cached(recipe: &Recipe, plan: &Plan, at: usize, args: &ExportArgs) -> Result<ArtifactDigest, Failure> {
    if let Some(artifact) = plan.artifact(at) {
        return Ok(artifact);
    }
    let blocked = plan.blocked();
    if !blocked.is_empty() {
        return Err(Failure::lost_sources(recipe, &blocked));
    }
    let stage = &plan.stages()[at].id;
    Err(Failure::usage(
        format!("`{stage}` is not in the cache with these params, and an export runs nothing"),
        format!("`{}` makes it", run_command(&stage.to_string(), args)),
    ))
}

/// The command that makes a stage, with all that was laid over the recipe here.
fn run_command(stage: &str, args: &ExportArgs) -> String {
    let mut words = vec!["flow run".to_owned(), quoted(&args.recipe.recipe.display().to_string()), quoted(stage)];
    for profile in &args.recipe.profile {
        words.push(format!("--profile {profile}"));
    }
    for (path, value) in &args.recipe.set {
        words.push(format!("--set {}", quoted(&format!("{path}={value}"))));
    }
    words.join(" ")
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Nobody's files are mixed with a model's.
fn check_free(out: &Path) -> Result<(), Failure> {
    let taken = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some().then_some("is not empty"),
        Err(_) if fs::symlink_metadata(out).is_ok() => Some("is no folder"),
        Err(_) => None,
    };
    match taken {
        None => Ok(()),
        Some(why) => Err(Failure::usage(
            format!("{} {why}, and an export writes a folder of its own", out.display()),
            "name another folder, or remove this one".to_owned(),
        )),
    }
}

/// Gives a finished folder its name. An empty folder of that name makes room.
fn publish(from: &Path, to: &Path) -> Result<(), Failure> {
    // Somebody may have written there meanwhile.
    check_free(to)?;
    Ok(fs::rename(from, to).map_err(Error::io("write the model"))?)
}

/// A folder that goes with the guard.
struct Aside(PathBuf);

impl Aside {
    fn make(folder: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&folder).map_err(Error::io("make room for the model"))?;
        Ok(Self(folder))
    }

    /// Beside the one that is to be, on the same disk.
    fn beside(out: &Path) -> Result<Self, Failure> {
        let out = std::path::absolute(out).map_err(Error::io("make room for the model"))?;
        let Some(name) = out.file_name() else {
            let message = format!("{} is no name of a folder", out.display());
            return Err(Failure::usage(message, "name the folder that is to be made".to_owned()));
        };
        let begin = format!(".{}.", name.to_string_lossy());
        sweep(out.parent().unwrap_or(&out), &begin);
        let aside = Self::make(out.with_file_name(format!("{begin}{}.partial", std::process::id())))?;
        let holder = serde_json::to_vec(&Holder::this_process("export")).unwrap_or_default();
        fs::write(aside.path(HOLDER), holder).map_err(Error::io("make room for the model"))?;
        Ok(aside)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Names the process that writes a folder aside.
const HOLDER: &str = "process.json";

/// Removes what exports to the same place left that were killed. One of which that is not known for sure is left alone.
fn sweep(folder: &Path, begin: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(".partial"));
        if pid.is_none_or(|pid| pid.parse::<u32>().is_err()) {
            continue;
        }
        let holder = plain::read(&entry.path().join(HOLDER)).ok();
        let holder = holder.and_then(|text| serde_json::from_slice::<Holder>(&text).ok());
        if holder.is_some_and(|holder| holder.is_dead()) {
            // What cannot be removed is hidden and harmless.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // What stays behind is hidden and harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them_otherwise() {
        for (word, expected) in [
            ("recipes/a.yaml", "recipes/a.yaml"),
            ("expert[news]", "'expert[news]'"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
