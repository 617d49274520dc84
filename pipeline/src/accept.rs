//! A person says that a change is harmless: the artifact of a stage's last record stands for the key that the stage has now.
//!
//! [`propose`] looks and writes nothing; [`record`] writes what was proposed, of all stages or, where a stage cannot be had,
//! of none. The new record is the old one under the new key, with the person's reason and the parts of the key that the artifact was made
//! for, so that whoever meets the artifact later sees both what it was made of and why it is still taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use async_trait::async_trait;
use flow_cache::{Acquired, ArtifactDigest, Cache, Holder, Lease, MadeFor, PutRecord, RECORD_FORMAT, Record, StageKey};
use serde::Serialize;

use crate::{
    error::{Error, Result, StageError},
    key::{Change, KeyParts, Numerics},
    names::StageId,
    plan::{self, CacheProbe, Plan, Prepared, Probe, Reason, Verdict},
    run::attempt::LEASE,
};

/// One stage whose artifact is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Acceptance {
    /// The stage.
    pub stage: StageId,
    /// The key that the artifact was on record for.
    pub was: StageKey,
    /// What is different in the key that it stands for now.
    pub changes: Vec<Change>,
    /// The record of that key.
    pub record: Record,
}

/// What a person's word would change.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The stages whose artifacts are kept, each after those that it takes.
    pub stages: Vec<Acceptance>,
    /// Those of the stages asked for that need nobody's word, since they are in the cache.
    pub cached: Vec<StageId>,
    /// What a run would do with all that on record.
    pub plan: Plan,
}

/// Why the artifact of a stage cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The stage would not run.
    #[error("already in the cache{}", .accepted.as_ref().map(|reason| format!(", accepted: {reason}")).unwrap_or_default())]
    Cached {
        /// The reason for which its artifact was kept before.
        accepted: Option<String>,
    },
    /// There is no artifact.
    #[error("never run with this store and recipe, so that there is no artifact to keep")]
    NeverRun,
    /// Which artifact it had is not known any more.
    #[error("its last record is gone, and with it which artifact it would keep")]
    Unrecorded,
    /// What takes it could not read what is there.
    #[error("the kind changed ({old} → {new}), and an artifact of the one is none of the other")]
    OtherKind {
        /// The kind of the artifact.
        old: String,
        /// The kind that the stage has now.
        new: String,
    },
    /// It has no key yet.
    #[error("what {} will make is not known yet", names(.stages))]
    Waits {
        /// The stages that would be made first.
        stages: Vec<StageId>,
    },
    /// It is on record for the key that it has.
    #[error("made as the recipe is now; only its bytes are gone")]
    Evicted,
    /// The artifact is on record and nowhere else.
    #[error("bytes of the artifact that it would keep, {}, are no longer in the store", .artifact.short())]
    BytesGone {
        /// The artifact.
        artifact: ArtifactDigest,
    },
    /// A source outside of flow cannot be read.
    #[error("{0}")]
    Blocked(StageError),
    /// Somebody has its lease.
    #[error("{holder} is making it now")]
    Busy {
        /// Who.
        holder: String,
    },
    /// Somebody made it after this was proposed.
    #[error("made meanwhile, as {}", .artifact.short())]
    Made {
        /// What came out.
        artifact: ArtifactDigest,
    },
}

fn names(stages: &[StageId]) -> String {
    let more = if stages.len() > 3 { format!(" and {} more", stages.len() - 3) } else { String::new() };
    stages.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ") + &more
}

/// A store as it will be.
struct WithAccepted<'a> {
    store: CacheProbe<'a>,
    accepted: BTreeMap<StageKey, ArtifactDigest>,
}

#[async_trait]
impl Probe for WithAccepted<'_> {
    async fn hit(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        match self.accepted.get(key) {
            Some(artifact) => Ok(Some(*artifact)),
            None => self.store.hit(key).await,
        }
    }

    async fn recorded(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        match self.accepted.get(key) {
            Some(artifact) => Ok(Some(*artifact)),
            None => self.store.recorded(key).await,
        }
    }

    async fn last(&self, stage: &StageId) -> Result<Option<KeyParts>> {
        self.store.last(stage).await
    }

    async fn has_ended(&self, stage: &StageId) -> Result<bool> {
        self.store.has_ended(stage).await
    }

    async fn begun(&self, key: &StageKey) -> Result<Option<bool>> {
        self.store.begun(key).await
    }

    async fn made(&self, artifact: &ArtifactDigest, stage: &StageId) -> Result<Option<KeyParts>> {
        self.store.made(artifact, stage).await
    }
}

/// What it would mean to keep the artifacts of the stages that are `asked` for; the name of a `foreach` stands for those of its
/// stages that are not in the cache. Where one stage takes another, both can be asked for at once.
///
/// # Errors
/// [`Error::NotAccepted`] with every stage that cannot be had, and why.
pub async fn propose(
    prepared: &Prepared,
    numerics: &Numerics,
    cache: &Cache,
    asked: &[StageId],
    reason: &str,
) -> Result<Proposal> {
    let mut open = chosen(prepared, asked)?;
    let mut probe = WithAccepted { store: CacheProbe::new(cache, &prepared.recipe), accepted: BTreeMap::new() };
    let (mut stages, mut cached, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    // Once what a stage takes is accepted, the stage has a key: each round knows more of them.
    for round in 0.. {
        let plan = plan::plan(prepared.clone(), numerics.clone(), &probe, &[]).await?;
        let (mut waits, mut found) = (Vec::new(), false);
        for at in std::mem::take(&mut open) {
            let id = plan.stages()[at].id.clone();
            match &plan.verdicts[at] {
                Verdict::Run { key: Some(key), reason: Reason::Changed { changes }, .. } => {
                    match stand_in(&plan, at, *key, changes, cache, reason).await? {
                        Ok(acceptance) => {
                            probe.accepted.insert(*key, acceptance.record.artifact);
                            stages.push(acceptance);
                            found = true;
                        }
                        Err(why) => refused.push((id, why)),
                    }
                }
                Verdict::Run { reason: Reason::Upstream { stages }, .. } => waits.push((at, id, stages.clone())),
                Verdict::Run { reason: Reason::Evicted | Reason::Recheck, .. } => refused.push((id, Unfit::Evicted)),
                Verdict::Run { reason: Reason::Unrecorded, .. } => refused.push((id, Unfit::Unrecorded)),
                Verdict::Run { .. } => refused.push((id, Unfit::NeverRun)),
                Verdict::Blocked { error } => refused.push((id, Unfit::Blocked(error.clone()))),
                Verdict::Cached { key, .. } if round == 0 && asked.contains(&id) => {
                    refused.push((id, Unfit::Cached { accepted: cache.accepted(key).await? }));
                }
                Verdict::Cached { key, .. } => cached.push((id, *key)),
            }
        }
        if !found && refused.is_empty() && stages.is_empty() && waits.is_empty() {
            for (id, key) in std::mem::take(&mut cached) {
                refused.push((id, Unfit::Cached { accepted: cache.accepted(&key).await? }));
            }
        }
        if !found {
            refused.extend(waits.iter().map(|(_, id, stages)| (id.clone(), Unfit::Waits { stages: stages.clone() })));
        }
        if !refused.is_empty() {
            return Err(Error::NotAccepted(refused));
        }
        if !found {
            let cached = cached.into_iter().map(|(id, _)| id).collect();
            return Ok(Proposal { stages, cached, plan });
        }
        open = waits.into_iter().map(|(at, _, _)| at).collect();
    }
    // The rounds never end.
    Err(Error::NotAccepted(refused))
}

/// The places of the stages that are asked for.
fn chosen(prepared: &Prepared, asked: &[StageId]) -> Result<BTreeSet<usize>> {
    let mut chosen = BTreeSet::new();
    for name in asked {
        let is = |id: &StageId| id == name || (name.instance().is_none() && id.base() == name.base());
        let found: Vec<usize> = (0..prepared.stages.len()).filter(|&at| is(&prepared.stages[at].id)).collect();
        if found.is_empty() {
            let known = prepared.stages.iter().map(|stage| &stage.id);
            return Err(plan::prepare::no_such_stage(&name.to_string(), known));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// The record with which the artifact of the last one stands for `key`.
async fn stand_in(
    plan: &Plan,
    at: usize,
    key: StageKey,
    changes: &[Change],
    cache: &Cache,
    reason: &str,
) -> Result<Result<Acceptance, Unfit>> {
    let stage = &plan.stages()[at];
    let artifacts = |input: usize| match plan.verdicts[input] {
        Verdict::Cached { artifact, .. } | Verdict::Run { artifact: Some(artifact), .. } => Some(artifact),
        Verdict::Run { .. } | Verdict::Blocked { .. } => None,
    };
    let last = cache.latest(&plan.prepared.recipe, &stage.id.to_string())?;
    let last = match last {
        Some(key) => cache.record(&key).await?,
        None => None,
    };
    // Both were there a moment ago, when the plan was made.
    let (Some(last), Some(parts)) = (last, stage.key_parts(&plan.numerics, artifacts)) else {
        return Ok(Err(Unfit::NeverRun));
    };
    if last.kind != stage.kind {
        return Ok(Err(Unfit::OtherKind { old: last.kind, new: stage.kind.to_owned() }));
    }
    if !cache.is_complete(&last.artifact).await? {
        return Ok(Err(Unfit::BytesGone { artifact: last.artifact }));
    }
    let accepted = match &last.accepted {
        Some(before) => format!("{reason}; before that: {before}"),
        None => reason.to_owned(),
    };
    let record = Record {
        format: RECORD_FORMAT,
        key,
        kind_version: stage.kind_version,
        parts: serde_json::to_value(&parts).unwrap_or_default(),
        stage: stage.id.to_string(),
        accepted: Some(accepted),
        made_for: Some(last.made_for.clone().unwrap_or_else(|| MadeFor { key: last.key, parts: last.parts.clone() })),
        ..last.clone()
    };
    Ok(Ok(Acceptance { stage: stage.id.clone(), was: last.key, changes: changes.to_vec(), record }))
}

/// Puts what was proposed on record, under the lease of each key: no run works on one of them meanwhile.
///
/// # Errors
/// [`Error::NotAccepted`] where another run has a stage, or has made it since; then nothing is on record that was not before.
pub async fn record(cache: &Cache, proposal: &Proposal) -> Result<()> {
    let mut leases = Vec::new();
    let ended = record_under(cache, proposal, &mut leases).await;
    for lease in leases {
        // What is on its way to a shared store is nobody else's to make until it is there.
        let given = match &ended {
            Ok(()) => cache.release_recorded(lease).await,
            Err(_) => cache.release(&lease).await.map(drop),
        };
        if let Err(error) = given {
            tracing::warn!(%error, "a lease could not be given back");
        }
    }
    ended
}

async fn record_under(cache: &Cache, proposal: &Proposal, leases: &mut Vec<Lease>) -> Result<()> {
    let holder = Holder::this_process("accept");
    let mut refused = Vec::new();
    for Acceptance { stage, record, .. } in &proposal.stages {
        match cache.acquire(&record.key, &holder, SystemTime::now(), LEASE).await? {
            Acquired::Yes(lease) => leases.push(lease),
            Acquired::HeldBy { holder, .. } => {
                refused.push((stage.clone(), Unfit::Busy { holder: holder.to_string() }));
                continue;
            }
        }
        if let Some(made) = cache.record(&record.key).await? {
            refused.push((stage.clone(), Unfit::Made { artifact: made.artifact }));
        }
    }
    if !refused.is_empty() {
        return Err(Error::NotAccepted(refused));
    }
    for (Acceptance { stage, record, .. }, lease) in proposal.stages.iter().zip(leases.iter()) {
        match cache.put_record_under(record, lease).await? {
            PutRecord::Created | PutRecord::Same => {}
            // Only where the store does not keep two writers apart.
            PutRecord::Conflict(made) => {
                return Err(Error::NotAccepted(vec![(stage.clone(), Unfit::Made { artifact: made.artifact })]));
            }
        }
        // So that a later change is told from here, and a later acceptance keeps this reason.
        let recipe = &proposal.plan.prepared.recipe;
        if let Err(error) = cache.set_latest(recipe, &stage.to_string(), &record.key) {
            tracing::warn!(%error, "the last key of a stage could not be remembered");
        }
    }
    Ok(())
}
