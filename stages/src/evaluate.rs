//! `evaluate`: one model on the held-out documents of every domain: bits per byte, and a cloze task made from them.

use std::collections::BTreeMap;

use flow_data::{
    corpus::{Corpus, Split},
    evaluation::{
        self, Bootstrap, DomainResult, Evaluation, Scores,
        bits_per_byte::{self, DocumentScore},
        cloze::{self, ClozeParams},
        pairs,
        windows::windows,
    },
};
use flow_model::{
    json, numerics,
    score::{ScoreRequest, Scorer},
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, DefaultCores, Forecast, Forecasts, Kind, NoPlaces, Role},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, go_on, model},
    facts, misfit,
    scoring::Scored,
};

/// The kind.
pub(crate) struct Evaluate;

/// What is measured.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Experts of a mixture that are left out.
    #[serde(default)]
    pub without: Vec<String>,
    /// Experts that a token is sent to, instead of the model's own number.
    #[serde(default)]
    pub top_k: Option<u64>,
    /// Bits per byte; `null` leaves it out.
    #[serde(default = "text")]
    pub bits_per_byte: Option<TextParams>,
    /// The cloze task; `null` leaves it out.
    #[serde(default = "questions")]
    pub cloze: Option<ClozeParams>,
    /// How intervals are made.
    #[serde(default)]
    pub bootstrap: Bootstrap,
}

/// How running text goes through the model.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TextParams {
    /// Tokens that the model sees at once; all its positions, where it has fewer.
    pub length: u64,
    /// Tokens that a window goes on by; less than `length` gives each token more text before it, and costs more.
    pub stride: u64,
}

impl Default for TextParams {
    fn default() -> Self {
        Self { length: 2048, stride: 2048 }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn text() -> Option<TextParams> {
    Some(TextParams::default())
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn questions() -> Option<ClozeParams> {
    Some(ClozeParams::default())
}

/// Requests between two looks at whether to stop.
const CHUNK: usize = 64;

impl Kind for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Measure a model on each domain's held-out documents: bits per byte and a cloze task.";
    const MAKES: &'static str = artifact::EVALUATION;
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role {
                name: "model",
                takes: &[artifact::MODEL, artifact::MIXTURE, artifact::ENSEMBLE],
                arity: Arity::One,
                about: "the model: dense, a mixture or an ensemble",
            },
            Role {
                name: "expert",
                takes: &[artifact::EXPERT],
                arity: Arity::Optional,
                about: "an expert, measured as the FFN of the dense `model`",
            },
            Role {
                name: "corpora",
                takes: &[artifact::CORPUS],
                arity: Arity::Many,
                about: "the corpora whose held-out documents are scored, a domain each",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        if params.bits_per_byte.is_none() && params.cloze.is_none() {
            return Err(Misfit::new("`bits_per_byte` and `cloze` are both null: nothing would be measured"));
        }
        if let Some(TextParams { length, stride }) = params.bits_per_byte
            && (stride == 0 || stride > length)
        {
            let message =
                format!("`bits_per_byte.stride` is {stride}; it must be from 1 to `bits_per_byte.length`, {length}");
            return Err(Misfit::param("bits_per_byte.stride", message).also_param("bits_per_byte.length", "the length"));
        }
        params.cloze.map_or(Ok(()), |cloze| cloze.validate()).map_err(|error| misfit::data(error, "cloze"))?;
        params.bootstrap.validate().map_err(|error| misfit::data(error, "bootstrap"))
    }

    fn fits(params: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        facts::check_held_out(inputs, "corpora")?;
        facts::check_public(inputs, "model", "expert")?;
        let expert = inputs.contains_key("expert");
        if facts::number(inputs, "model", facts::MEMBERS).is_some() {
            let set = [("without", !params.without.is_empty()), ("top_k", params.top_k.is_some())];
            let param = set.into_iter().find(|(_, set)| *set).map(|(name, _)| name);
            let help = "set `top_k` where the ensemble is made, and leave members out there";
            let misfit = match param {
                Some(name) => Misfit::param(name, format!("`{name}` is for other models than an ensemble")),
                None if expert => {
                    Misfit::input("expert", "input `expert` is for a dense model, and this is an ensemble")
                }
                None => return Ok(()),
            };
            return Err(misfit.with_help(help));
        }
        let Some(config) = facts::model(inputs, "model") else { return Ok(()) };
        let names = config.experts.map(|mixture| mixture.names).unwrap_or_default();
        if expert && !names.is_empty() {
            return Err(Misfit::input("expert", "input `expert` is for a dense model, and this is a mixture")
                .with_help("give `model` the public model that the expert was trained beside"));
        }
        if let Some((at, name)) = params.without.iter().enumerate().find(|(_, name)| !names.contains(name)) {
            let message = format!("`without` names `{name}`, which is no expert of this model");
            let help = if names.is_empty() {
                "it is dense: leave `without` out".to_owned()
            } else {
                format!("its experts are {}", names.join(", "))
            };
            return Err(Misfit::param(format!("without[{at}]"), message).with_help(help));
        }
        if !names.is_empty() && names.iter().all(|name| params.without.contains(name)) {
            return Err(Misfit::param("without", "`without` names every expert of this model: none would be left"));
        }
        Ok(())
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let Some(config) = facts::model(inputs, "model") else { return Forecast::default() };
        let members = facts::number(inputs, "model", facts::MEMBERS).unwrap_or(1);
        let domains = facts::of(inputs, "corpora").count() as u64;
        let text = params.bits_per_byte.and_then(|text| {
            let bytes = facts::sum(inputs, "corpora", facts::HELDOUT_BYTES)?;
            let length = text.length.min(config.max_positions as u64);
            Some(facts::tokens_of(bytes).saturating_mul(length) / text.stride.clamp(1, length))
        });
        let questions = params.cloze.map(|cloze| {
            let choices = cloze.choices.saturating_mul(cloze.continuation_bytes);
            let bytes = cloze.items.saturating_mul(cloze.context_bytes.saturating_add(choices)) as u64;
            facts::tokens_of(bytes).saturating_mul(domains)
        });
        let known = params.bits_per_byte.is_none() || text.is_some();
        let tokens = known.then(|| text.unwrap_or(0).saturating_add(questions.unwrap_or(0)).saturating_mul(members));
        let length = params.bits_per_byte.map_or(512, |text| text.length as usize).min(config.max_positions);
        let mut estimate = facts::inference(&config, tokens, length);
        estimate.memory = estimate.memory.map(|memory| memory * members);
        estimate.parameters = estimate.parameters.map(|parameters| parameters * members);
        Forecast { estimate, ..Forecast::default() }
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let Params { without, top_k, bits_per_byte, cloze, bootstrap } = params;
        let device = numerics::device(ctx.device()).map_err(model)?;
        let scored = Scored::open(ctx.input("model")?, ctx.optional_input("expert"), &without, top_k, &device)?;
        let scorer = scored.scorer()?;
        let corpora = ctx.inputs("corpora");
        let (mut domains, mut all_scores) = (BTreeMap::new(), BTreeMap::new());
        for (nth, corpus) in corpora.iter().enumerate() {
            ctx.progress(nth as u64, Some(corpora.len() as u64), "domains");
            let label = corpus.label.clone().unwrap_or_else(|| nth.to_string());
            let name = label.rsplit('.').next().unwrap_or(&label).to_owned();
            // A domain that was measured before the stage was cut off is not measured again.
            let done = ctx.scratch().join(format!("{name}.json"));
            let measured = json::read::<(DomainResult, Scores)>(&done);
            let (result, scores) = if let Ok(measured) = measured {
                measured
            } else {
                let documents = Documents::read(&Corpus::open(&corpus.path).map_err(data)?)?;
                let mut result = documents.nothing_yet();
                let mut scores = Scores::default();
                if let Some(text) = bits_per_byte {
                    let all = documents.text(ctx, &scored, &*scorer, text, &mut result)?;
                    result.bits_per_byte = Some(bits_per_byte::bits_per_byte(&all, &bootstrap).map_err(data)?);
                    scores.documents = all.iter().filter(|s| s.bytes > 0).map(DocumentScore::ratio).collect();
                }
                if let Some(questions) = cloze {
                    scores.cloze = documents.questions(ctx, &scored, &*scorer, &questions)?;
                    result.items = scores.cloze.len() as u64;
                    result.cloze = Some(bootstrap.mean(&scores.cloze).map_err(data)?);
                }
                let measured = (result, scores);
                json::write(&done, &measured).map_err(model)?;
                measured
            };
            all_scores.insert(name.clone(), scores);
            domains.insert(name, result);
        }
        let evaluation = Evaluation::new(scored.label.clone(), domains);
        ctx.metrics(serde_json::json!({
            "bits_per_byte": evaluation.average.bits_per_byte, "cloze": evaluation.average.cloze,
        }));
        evaluation::write_scores(&all_scores, ctx.output()).map_err(data)?;
        evaluation.write(ctx.output()).map_err(data)
    }
}

/// The held-out documents of a domain: id and text.
struct Documents(Vec<(String, String)>);

impl Documents {
    fn read(corpus: &Corpus) -> Result<Self, StageError> {
        let documents = corpus.documents(Split::Heldout).map_err(data)?;
        let documents: Vec<_> =
            documents.map(|row| row.map(|row| (row.id, row.text)).map_err(data)).collect::<Result<_, _>>()?;
        if documents.is_empty() {
            let domain = &corpus.statistics.domain;
            return Err(StageError::new(format!("the corpus `{domain}` holds no documents out"))
                .with_help("set `heldout.share` of its `curate` stage above 0"));
        }
        Ok(Self(documents))
    }

    fn nothing_yet(&self) -> DomainResult {
        DomainResult {
            bits_per_byte: None,
            bytes: self.0.iter().map(|(_, text)| text.len() as u64).sum(),
            cloze: None,
            documents: self.0.len() as u64,
            items: 0,
            tokens: 0,
        }
    }

    /// What each document's text costs.
    fn text(
        &self,
        ctx: &Context,
        scored: &Scored,
        scorer: &dyn Scorer,
        text: TextParams,
        result: &mut DomainResult,
    ) -> Result<Vec<DocumentScore>, StageError> {
        let length = (text.length as usize).min(scored.max_positions);
        let stride = (text.stride as usize).min(length);
        let mut requests = Vec::new();
        let mut owners = Vec::new();
        for (at, (_, text)) in self.0.iter().enumerate() {
            let tokens = scored.tokenizer.encode(text).map_err(data)?;
            result.tokens += tokens.len() as u64;
            for window in windows(&tokens, scored.tokenizer.eos(), length, stride).map_err(data)? {
                requests.push(ScoreRequest::text_from(window.tokens, window.scored.start));
                owners.push(at);
            }
        }
        let mut log_probs = vec![0.0f64; self.0.len()];
        for (owner, scores) in owners.iter().zip(score(ctx, scorer, &requests, "windows")?) {
            log_probs[*owner] += scores.iter().map(|&p| f64::from(p)).sum::<f64>();
        }
        let scores = self.0.iter().zip(&log_probs);
        Ok(scores.map(|((_, text), &log_prob)| DocumentScore { log_prob, bytes: text.len() as u64 }).collect())
    }

    /// 1 for each question that is answered right, else 0.
    fn questions(
        &self,
        ctx: &Context,
        scored: &Scored,
        scorer: &dyn Scorer,
        params: &ClozeParams,
    ) -> Result<Vec<f64>, StageError> {
        let items = cloze::items(&self.0, params).map_err(data)?.items;
        let mut requests = Vec::with_capacity(items.len());
        for item in &items {
            let pairs = item.choices.iter().map(|choice| pairs::encode(&scored.tokenizer, &item.context, choice));
            let pairs = pairs.collect::<flow_data::Result<Vec<_>>>().map_err(data)?;
            let longest = pairs.iter().map(|pair| pair.continuation.len()).max().unwrap_or(0);
            let context = pairs.first().map(|pair| pair.context.clone()).unwrap_or_default();
            // All choices see the same context: as much of its end as the longest of them leaves room for.
            let cut =
                (context.len() + longest).saturating_sub(scored.max_positions + 1).min(context.len().saturating_sub(1));
            let continuations: Vec<Vec<u32>> = pairs.into_iter().map(|pair| pair.continuation).collect();
            requests.push(ScoreRequest::continuations(&context[cut..], &continuations).map_err(model)?);
        }
        let scores = score(ctx, scorer, &requests, "questions")?;
        let sums = |(request, scores): (&ScoreRequest, &Vec<f32>)| -> Vec<f64> {
            let sum = |part: Vec<f32>| {
                // Nothing was asked of a choice whose tokens all merged into the context: it cannot win.
                if part.is_empty() { f64::NEG_INFINITY } else { part.iter().map(|&p| f64::from(p)).sum() }
            };
            request.split(scores).into_iter().map(sum).collect()
        };
        let log_probs: Vec<Vec<f64>> = requests.iter().zip(&scores).map(sums).collect();
        cloze::correct(&items, &log_probs).map_err(data)
    }
}

/// Scores in chunks, so that progress shows and a stop is heard.
fn score(
    ctx: &Context,
    scorer: &dyn Scorer,
    requests: &[ScoreRequest],
    unit: &str,
) -> Result<Vec<Vec<f32>>, StageError> {
    let mut scores = Vec::with_capacity(requests.len());
    for chunk in requests.chunks(CHUNK) {
        if go_on(ctx, scores.len() as u64, Some(requests.len() as u64), unit).is_break() {
            return Err(StageError::cancelled());
        }
        scores.extend(scorer.log_probs(chunk).map_err(model)?);
    }
    Ok(scores)
}
