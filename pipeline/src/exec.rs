//! The child's side: read the job, run the kind, write the result.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    context::Context,
    error::{Error, Result, StageError, chain},
    job::{FORMAT, Job, JobResult, read_json, write_json},
    registry::Registry,
};

/// Runs the job of this file. The result file is written last and says how it went; this returns an error only if no
/// result could be written.
///
/// `cancelled` is raised by the caller when the process is asked to stop.
pub fn exec(path: &Path, registry: &Registry, cancelled: Arc<AtomicBool>) -> Result<JobResult> {
    let job: Job = read_json(path, "job")?;
    let result_path = job.result.clone();
    let error = run(path, job, registry, cancelled).err();
    let result = JobResult { format: FORMAT, error };
    write_json(&result_path, &result)?;
    Ok(result)
}

fn run(path: &Path, job: Job, registry: &Registry, cancelled: Arc<AtomicBool>) -> Result<(), StageError> {
    let refuse = |why: String| {
        StageError::new(chain(&Error::Job { path: path.to_path_buf(), why }))
            .with_help("run the same version of flow everywhere")
    };
    if job.format != FORMAT {
        return Err(refuse(format!("it has format {} where this flow reads {FORMAT}", job.format)));
    }
    let Some(kind) = registry.get(&job.kind) else {
        return Err(refuse(format!("this flow has no kind `{}`", job.kind)));
    };
    if kind.version() != job.kind_version {
        return Err(refuse(format!(
            "this flow has version {} of kind `{}`, the job wants {}",
            kind.version(),
            job.kind,
            job.kind_version
        )));
    }
    let decoded = job.decoded.clone();
    let context = Context::new(job, cancelled);
    // A panic is a defect of flow; it must still leave a result that says so and names the place.
    catch_unwind(AssertUnwindSafe(|| kind.run(&context, &decoded))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(StageError::new(format!("the stage panicked: {text}"))
            .with_help("this is a defect of flow; the stage's log has the place"))
    })
}
