//! What can go wrong with models. Advice to the reader of a recipe is given at the edge, from these fields.

use std::path::PathBuf;

use crate::weights::Digest;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of this crate. Texts are fragments that fit after "failed to"; a cause is kept as the source and not repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written. `fs_err` puts the path into the cause.
    #[error("use a file")]
    Io(#[from] std::io::Error),
    /// The caller asked to stop.
    #[error("finish: stopped on request")]
    Cancelled,

    // ---- configuration and params ----
    /// A model's sizes do not fit together, or its `config.json` asks for what this crate does not do.
    #[error("use the model configuration of {place}: {reason}")]
    Config {
        /// A path, or a word such as `the recipe`.
        place: String,
        /// What does not fit, with the values.
        reason: String,
    },
    /// A param is outside of its range.
    #[error("use the param `{param}`: {reason}")]
    Param {
        /// Name as in the recipe.
        param: &'static str,
        /// What does not fit, with the value.
        reason: String,
    },
    /// A JSON file is not what it should be.
    #[error("read {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_json::Error,
    },
    /// A file of ours says that it was written by a newer format.
    #[error("read {}: its format is {found}, this program reads format {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Number in the file.
        found: u64,
        /// Number that is understood.
        known: u64,
    },

    // ---- tensors and files of tensors ----
    /// A file is not safetensors.
    #[error("read {} as safetensors", path.display())]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// A name that no table has.
    #[error("place the tensor `{name}` of {place}: no such tensor{}", did_you_mean(nearest))]
    UnknownTensor {
        /// The name as found.
        name: String,
        /// File or folder.
        place: String,
        /// At most three names that look like it, best first.
        nearest: Vec<String>,
    },
    /// Tensors that the configuration asks for are absent.
    #[error("read {place}: tensors are missing: {}", first_few(names))]
    MissingTensors {
        /// File or folder.
        place: String,
        /// All of them, sorted.
        names: Vec<String>,
    },
    /// A tensor's sides are not those of the configuration.
    #[error("use the tensor `{name}` of {place}: its shape is {found:?}, the configuration gives {expected:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// File or folder.
        place: String,
        /// Shape as found.
        found: Vec<usize>,
        /// Shape as computed from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor's type is not the one that is needed here.
    #[error("use the tensor `{name}` of {place}: its type is {found}, needed is {expected}")]
    TensorDtype {
        /// The tensor.
        name: String,
        /// File or folder.
        place: String,
        /// Type as found.
        found: String,
        /// What can be used.
        expected: String,
    },
    /// A number that is infinite or not a number.
    #[error("use the tensor `{name}` of {place}: element {index} is not a finite number")]
    NotFinite {
        /// The tensor.
        name: String,
        /// File or folder.
        place: String,
        /// Flat, row-major index of the first one.
        index: usize,
    },
    /// A model whose weights are numbers gives logits that are none: they are too large to compute with.
    #[error("compute with the model: its logits are infinite or no numbers, though its weights are finite")]
    Overflow,
    /// What was written to a file is not what was announced when it was begun: a mistake in this program.
    #[error("write {}: {reason}", path.display())]
    WriterMisused {
        /// The file.
        path: PathBuf,
        /// What came, and what was due.
        reason: String,
    },

    // ---- bundles, merging, soups ----
    /// A file's or a tensor's content is not the content that its record names.
    #[error("trust {place}: `{name}` has digest {found}, recorded is {recorded}")]
    Corrupt {
        /// File or folder.
        place: String,
        /// The tensor or file.
        name: String,
        /// Digest in the record.
        recorded: Digest,
        /// Digest of what is there.
        found: Digest,
    },
    /// An expert was trained beside another public model.
    #[error(
        "merge the expert `{expert}`: it was trained beside public model {recorded}, this one is {found}{}",
        differing(names)
    )]
    OtherPublicModel {
        /// Name of the expert.
        expert: String,
        /// Digest in the bundle.
        recorded: Digest,
        /// Digest of the public model that was given.
        found: Digest,
        /// The frozen tensors that differ, sorted.
        names: Vec<String>,
    },
    /// Two things that should go together do not.
    #[error("combine {one} with {other}: {reason}")]
    Mismatch {
        /// One of the two, in words.
        one: String,
        /// The other one.
        other: String,
        /// What differs, with the values.
        reason: String,
    },
    /// A list of experts that cannot be used.
    #[error("use the expert `{name}`: {reason}")]
    Expert {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A router bias cannot be expressed in the Hugging Face format.
    #[error(
        "export {place}: the router bias of `{expert}` is {value} in layer {layer}, and the Hugging Face format has no router bias; \
         drop the bias to export all the same: the router will then send more tokens to this expert than it was trained to"
    )]
    BiasNotExportable {
        /// The model folder.
        place: String,
        /// Name of the first expert whose bias is in use.
        expert: String,
        /// Its first layer.
        layer: usize,
        /// The bias there.
        value: f32,
    },
    /// Weights of a mean that have no meaning.
    #[error("average models: {reason}")]
    SoupWeights {
        /// What is wrong with the numbers.
        reason: String,
    },

    // ---- data, devices and training ----
    /// Documents or tokens could not be used.
    #[error("use the data")]
    Data(#[from] flow_data::Error),
    /// Tokens, documents or tensors that were handed to the model do not fit it.
    #[error("use {what}: {reason}")]
    Input {
        /// What was handed in.
        what: String,
        /// What does not fit, with the values.
        reason: String,
    },
    /// A device is not there, or cannot do what is asked.
    #[error("use the device `{device}`: {reason}")]
    Device {
        /// As asked for.
        device: String,
        /// What is missing.
        reason: String,
    },
    /// The loss or the gradient became infinite or not a number, or stood out among those before.
    #[error("train on: at step {step} the {quantity} is {value}{}; the step's documents are {documents:?}", beyond(*limit))]
    Diverged {
        /// The step, counted from 1 as metrics are; the state that is kept is that of the step before.
        step: u64,
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// The value.
        value: f64,
        /// What it may have been at most, by those of the steps before; nothing where it is no number.
        limit: Option<f64>,
        /// Ids of the documents in the step's batch.
        documents: Vec<u64>,
    },
}

fn beyond(limit: Option<f64>) -> String {
    limit.map_or_else(String::new, |limit| format!(", after the steps before at most {limit:.4} was to be expected"))
}

/// The ways in which bytes can fail to be a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not even the eight bytes that give the header's length.
    #[error("the file has {bytes} bytes; the length of the header alone takes 8")]
    TooShort {
        /// Size of the file.
        bytes: u64,
    },
    /// A header that is larger than any real one.
    #[error("the header claims {bytes} bytes, the limit is {limit}")]
    HeaderTooLarge {
        /// Claimed length.
        bytes: u64,
        /// Largest length that is read.
        limit: u64,
    },
    /// The header goes on after the end of the file.
    #[error("the header claims {bytes} bytes, only {available} follow; the file is cut off")]
    HeaderTruncated {
        /// Claimed length.
        bytes: u64,
        /// Bytes after the length.
        available: u64,
    },
    /// The header is not the JSON that it should be.
    #[error("the header is not valid: {reason}")]
    Header {
        /// The parser's words.
        reason: String,
    },
    /// One name twice.
    #[error("the header names `{name}` twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An element type that this program does not compute with.
    #[error("tensor `{name}` has elements of type `{dtype}`; F32, BF16 and F16 are read")]
    Dtype {
        /// The tensor.
        name: String,
        /// Type as written.
        dtype: String,
    },
    /// A shape whose size does not fit into 64 bits.
    #[error("tensor `{name}` has shape {shape:?}, whose size overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Shape as written.
        shape: Vec<u64>,
    },
    /// Offsets that do not span what shape and type need.
    #[error("tensor `{name}` needs {needed} bytes, its offsets {begin}..{end} do not span as many")]
    Size {
        /// The tensor.
        name: String,
        /// Bytes of shape × type.
        needed: u64,
        /// First offset.
        begin: u64,
        /// Offset after the last byte.
        end: u64,
    },
    /// Two tensors on the same bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// Bytes that belong to no tensor.
    #[error("{bytes} bytes before tensor `{name}` belong to no tensor")]
    Hole {
        /// The tensor after the hole.
        name: String,
        /// Size of the hole.
        bytes: u64,
    },
    /// Tensors go on after the end of the file.
    #[error("the tensors take {needed} bytes, the file has {available} after the header; it is cut off")]
    Truncated {
        /// Bytes of all tensors.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// The file goes on after the tensors.
    #[error("{bytes} bytes after the last tensor belong to no tensor")]
    Trailing {
        /// How many.
        bytes: u64,
    },
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; near are {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// Names the first few: a model has hundreds of tensors, and one line has to say it.
fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn differing(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; these frozen tensors differ: {}", first_few(names)) }
}
