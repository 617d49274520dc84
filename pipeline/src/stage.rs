//! The contract of a stage: what a kind must say about itself before it may run.
//!
//! A kind has two parameter types. `Params` is *what* is computed and enters the stage key whole. `Places` is *where and
//! how* (folders, URLs, checkpoint intervals) and can never enter it: only what the places hold does, through
//! [`Kind::resolve`], by digest.

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    context::Context,
    error::StageError,
    misfit::Misfit,
    recipe::{Diagnostic, StageSpec, decode, decode_split},
};

/// How many artifacts an input role takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// Any number from one, each under its label.
    Many,
    /// Any number, none included, each under its label.
    Any,
}

/// One input of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// The name in a recipe's `inputs`.
    pub name: &'static str,
    /// What may fill it: what kinds make, in the words of [`Kind::MAKES`].
    pub takes: &'static [&'static str],
    /// How many artifacts it takes.
    pub arity: Arity,
    /// What it is for, in a line.
    pub about: &'static str,
}

/// How many of the machine's cores a kind takes when the recipe does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultCores {
    /// One: several such stages run side by side.
    One,
    /// All that the run has.
    All,
}

/// A source outside of flow as it was found when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// What it is, without where it is: enters the key.
    pub identity: Value,
    /// All that the stage needs to read it again: handed to the stage, never in the key.
    pub handle: Value,
    /// Where it is, in the recipe's own words: for people, never in the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

/// What a kind may use to look at its sources while a plan is made.
pub struct ResolveContext<'a> {
    /// The recipe's folder: relative places start here.
    pub base: &'a Path,
    /// A folder in which lookups may be remembered.
    pub memo: &'a Path,
    /// BLAKE3 of a file as hex, remembered by inode, size and time of change.
    pub hash: &'a (dyn Fn(&Path) -> std::io::Result<String> + Sync),
}

/// What running a stage will cost, as far as it can be told beforehand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Tokens that are read or trained on.
    pub tokens: Option<u64>,
    /// Parameters of the model that is made or run.
    pub parameters: Option<u64>,
    /// Parameters that are trained.
    pub trained_parameters: Option<u64>,
    /// Floating point operations in all.
    pub flops: Option<f64>,
    /// Bytes of memory on the device (or in this machine where the CPU computes).
    pub memory: Option<u64>,
    /// Hours of one device of the accelerator that [`Estimate::accelerator`] names.
    pub device_hours: Option<f64>,
    /// The accelerator that the hours are for, with the utilisation that they assume.
    pub accelerator: Option<String>,
    /// Bytes that the artifact takes.
    pub disk: Option<u64>,
}

/// What is known of a stage before it ran: its cost, and facts that stages downstream need for theirs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// What it costs.
    pub estimate: Estimate,
    /// Free-form facts for the kinds downstream, such as a model's shape.
    pub facts: BTreeMap<String, Value>,
}

/// The forecasts of a stage's inputs: role → label and forecast.
pub type Forecasts = BTreeMap<String, Vec<(Option<String>, Forecast)>>;

/// A kind of stage. One file in `flow-stages` each.
pub trait Kind: Send + Sync + 'static {
    /// What recipes call it.
    const NAME: &'static str;
    /// Raised whenever the same key would give other bytes.
    const VERSION: u32;
    /// What it does, in a sentence.
    const ABOUT: &'static str;
    /// What its artifact is, in a word or two: it can fill the roles of other kinds that take this.
    const MAKES: &'static str;
    /// Whether the recipe's seed enters the key.
    const SEEDED: bool = false;
    /// Whether the result depends on the compute device, so that numerics enter the key.
    const COMPUTES: bool = false;
    /// Cores when the recipe does not say.
    const CORES: DefaultCores = DefaultCores::One;
    /// What is computed.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// Where and how.
    type Places: Serialize + DeserializeOwned + JsonSchema;

    /// The inputs that it takes.
    fn roles() -> &'static [Role];

    /// Looks at the sources outside of flow and names their content.
    fn resolve(_: &Self::Params, _: &Self::Places, _: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        Ok(Vec::new())
    }

    /// What it would cost, from the params and what is known of the inputs.
    fn forecast(params: &Self::Params, inputs: &Forecasts) -> Forecast;

    /// Checks that serde cannot make: ranges, and relations between params.
    fn check(_: &Self::Params) -> Result<(), Misfit> {
        Ok(())
    }

    /// Checks the params against which inputs are given and what is known of them. What is certain to fail is refused here,
    /// before anything upstream has run; what is not known is no reason to refuse.
    fn fits(_: &Self::Params, _: &Forecasts) -> Result<(), Misfit> {
        Ok(())
    }

    /// Does the work: reads the inputs, writes the output folder.
    fn run(ctx: &Context, params: Self::Params, places: Self::Places) -> Result<(), StageError>;
}

/// The params of a stage, decoded and in canonical form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// Every field of `Params`, defaults written out.
    pub params: Value,
    /// Every field of `Places`.
    pub places: Value,
}

/// A [`Kind`] without its types, so that a registry can hold many.
pub trait AnyKind: Send + Sync {
    /// What recipes call it.
    fn name(&self) -> &'static str;
    /// See [`Kind::VERSION`].
    fn version(&self) -> u32;
    /// See [`Kind::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`Kind::MAKES`].
    fn makes(&self) -> &'static str;
    /// See [`Kind::SEEDED`].
    fn seeded(&self) -> bool;
    /// See [`Kind::COMPUTES`].
    fn computes(&self) -> bool;
    /// See [`Kind::CORES`].
    fn cores(&self) -> DefaultCores;
    /// See [`Kind::roles`].
    fn roles(&self) -> &'static [Role];
    /// The schemas of params and places.
    fn schemas(&self) -> (Schema, Schema);
    /// Decodes and checks a stage's `with`.
    fn decode(&self, stage: &StageSpec) -> Result<Decoded, Diagnostic>;
    /// See [`Kind::fits`].
    fn fits(&self, decoded: &Decoded, inputs: &Forecasts) -> Result<(), Misfit>;
    /// See [`Kind::resolve`].
    fn resolve(&self, decoded: &Decoded, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError>;
    /// See [`Kind::forecast`].
    fn forecast(&self, decoded: &Decoded, inputs: &Forecasts) -> Result<Forecast, StageError>;
    /// See [`Kind::run`].
    fn run(&self, ctx: &Context, decoded: &Decoded) -> Result<(), StageError>;
}

struct Erased<K> {
    kind: PhantomData<K>,
    /// The names of the params and of the places. A schema is made once, and not for each stage of a recipe.
    fields: OnceLock<(Vec<String>, Vec<String>)>,
}

/// A kind as a registry holds it.
pub fn erase<K: Kind>() -> Box<dyn AnyKind> {
    Box::new(Erased::<K> { kind: PhantomData, fields: OnceLock::new() })
}

fn reread<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, StageError> {
    T::deserialize(value).map_err(|e| StageError::new(format!("failed to read the {what} of a job: {e}")))
}

/// The property names of an object schema.
pub fn fields(schema: &Schema) -> Vec<String> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

impl<K: Kind> AnyKind for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }
    fn version(&self) -> u32 {
        K::VERSION
    }
    fn about(&self) -> &'static str {
        K::ABOUT
    }
    fn makes(&self) -> &'static str {
        K::MAKES
    }
    fn seeded(&self) -> bool {
        K::SEEDED
    }
    fn computes(&self) -> bool {
        K::COMPUTES
    }
    fn cores(&self) -> DefaultCores {
        K::CORES
    }
    fn roles(&self) -> &'static [Role] {
        K::roles()
    }

    fn schemas(&self) -> (Schema, Schema) {
        (schemars::schema_for!(K::Params), schemars::schema_for!(K::Places))
    }

    fn decode(&self, stage: &StageSpec) -> Result<Decoded, Diagnostic> {
        let (params_fields, places_fields) = self.fields.get_or_init(|| {
            let (params, places) = self.schemas();
            (fields(&params), fields(&places))
        });
        let a: Vec<&str> = params_fields.iter().map(String::as_str).collect();
        let b: Vec<&str> = places_fields.iter().map(String::as_str).collect();
        // Every message begins with the stage: its `with` may be the defaults of many.
        let named = |mut diagnostic: Diagnostic| {
            diagnostic.message = format!("{}: {}", stage.id, diagnostic.message);
            diagnostic
        };
        let (params_node, places_node) = decode_split(&stage.with, &a, &b).map_err(named)?;
        let params: K::Params = decode(&params_node).map_err(named)?;
        let places: K::Places = decode(&places_node).map_err(named)?;
        K::check(&params).map_err(|misfit| misfit.into_diagnostic(stage))?;
        let value = |result: serde_json::Result<Value>| {
            result.map_err(|e| {
                let message = format!("{}: the params have no canonical form: {e}", stage.id);
                Diagnostic::new("recipe::params", message).at(stage.with.span, "in these params")
            })
        };
        Ok(Decoded { params: value(serde_json::to_value(&params))?, places: value(serde_json::to_value(&places))? })
    }

    fn fits(&self, decoded: &Decoded, inputs: &Forecasts) -> Result<(), Misfit> {
        let params = reread(&decoded.params, "params").map_err(|error| Misfit::new(error.message))?;
        K::fits(&params, inputs)
    }

    fn resolve(&self, decoded: &Decoded, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        K::resolve(&reread(&decoded.params, "params")?, &reread(&decoded.places, "places")?, ctx)
    }

    fn forecast(&self, decoded: &Decoded, inputs: &Forecasts) -> Result<Forecast, StageError> {
        Ok(K::forecast(&reread(&decoded.params, "params")?, inputs))
    }

    fn run(&self, ctx: &Context, decoded: &Decoded) -> Result<(), StageError> {
        K::run(ctx, reread(&decoded.params, "params")?, reread(&decoded.places, "places")?)
    }
}

/// A kind has no places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoPlaces {}

/// An input artifact as a stage sees it: a read-only folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputTree {
    /// The instance or stage that it came from, where the role takes many.
    pub label: Option<String>,
    /// What it is.
    pub artifact: flow_cache::ArtifactDigest,
    /// Where it lies.
    pub path: PathBuf,
}
