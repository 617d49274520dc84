//! Compute devices, as the pipeline speaks of them: words and counts.

use flow_model::numerics::{DeviceName, Precision};
use flow_pipeline::StageError;

use crate::engine;

/// What of a device enters a stage's key, and the type that is computed in. Opens the device, so that what is missing is said
/// before anything runs.
///
/// # Errors
/// An unknown name, a device that this program was built without, or one that this machine lacks.
pub fn numerics(name: &str) -> Result<(String, String), StageError> {
    let device = DeviceName::parse(name).map_err(engine::model)?;
    let precision = Precision::of(&device.open().map_err(engine::model)?);
    Ok((device.numerics(precision).to_owned(), precision.as_str().to_owned()))
}

/// Accelerators that stages may use on this machine: one where a GPU is asked for, since a stage computes on one.
pub fn count(name: &str) -> u32 {
    u32::from(name != DeviceName::Cpu.as_str())
}

/// What a second run with these numerics may be expected to give, in a sentence.
pub fn promise(name: &str) -> &'static str {
    if name == DeviceName::Cpu.as_str() {
        "A second run gives the same bytes, with any number of threads, on any processor of the same instruction set."
    } else {
        "A second run agrees within the tolerance of a GPU's sums, not to the last bit."
    }
}
