//! What a stage may use, and for how long and how often it is tried: how and where it runs, so never part of a key.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostic::Diagnostic;
use super::node::Node;
use crate::units::{Bytes, Duration};

/// What a stage needs to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor cores; all there are where this is not said.
    pub cores: Option<u32>,
    /// Memory; the stage's own estimate where this is not said.
    pub memory: Option<Bytes>,
    /// GPUs on each node.
    pub gpus: u32,
    /// Machines with as many GPUs each. For plans: flow itself runs a stage on one machine, and refuses to run one that asks for
    /// more.
    pub nodes: u32,
    /// The time that is asked of a cluster; also the limit of an attempt where `timeout` does not say less.
    pub time: Option<Duration>,
    /// The longest that one attempt may take, such as `2h`: then the stage is asked to save its state and end, killed if it has
    /// not ended a minute later, and has failed; unlimited where neither this nor `time` is said.
    pub timeout: Option<Duration>,
    /// How often a stage is tried that was killed, or whose store did not answer.
    pub retries: Retries,
}

/// How often a stage is tried. What fails by itself, such as by a wrong param, would fail again and is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Attempts in all, the first one included.
    pub attempts: NonZeroU32,
    /// The pause before the second attempt; it doubles each time.
    pub backoff: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { attempts: NonZeroU32::MIN, backoff: Duration(10_000) }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Resources {
            cores: None,
            memory: None,
            gpus: 0,
            nodes: 1,
            time: None,
            timeout: None,
            retries: Retries::default(),
        }
    }
}

impl Resources {
    /// What can never be enough, at its place in `node`, from which they were read.
    pub(super) fn check(&self, node: &Node) -> Result<(), Diagnostic> {
        for (name, limit) in [("timeout", self.timeout), ("time", self.time)] {
            if limit == Some(Duration(0)) {
                let span = node.get(name).map_or(node.span, |value| value.span);
                return Err(Diagnostic::new("recipe::value", format!("`{name}` is 0: no attempt could end within it"))
                    .at(span, "")
                    .help(format!("give a time such as `{name}: 2h`, or leave it out for no limit")));
            }
        }
        for (name, is_none) in [("cores", self.cores == Some(0)), ("nodes", self.nodes == 0)] {
            if is_none {
                let span = node.get(name).map_or(node.span, |value| value.span);
                return Err(Diagnostic::new("recipe::value", format!("`{name}` is 0: nothing could run on none"))
                    .at(span, "")
                    .help(format!("give at least `{name}: 1`, or leave it out")));
            }
        }
        if self.nodes > 1 && self.gpus == 0 {
            let span = node.get("nodes").map_or(node.span, |value| value.span);
            let message = format!("`nodes` is {}, and a stage without GPUs runs on one machine", self.nodes);
            return Err(Diagnostic::new("recipe::value", message)
                .at(span, "")
                .help("leave it out; it is for plans of larger machines, beside `gpus`"));
        }
        Ok(())
    }

    /// GPUs on all nodes together.
    pub fn devices(&self) -> u32 {
        self.gpus.saturating_mul(self.nodes.max(1))
    }

    /// The longest that an attempt may take, and the name of the param that says so.
    pub fn limit(&self) -> Option<(&'static str, Duration)> {
        let timeout = self.timeout.map(|limit| ("timeout", limit));
        let time = self.time.map(|limit| ("time", limit));
        timeout.into_iter().chain(time).min_by_key(|(_, limit)| *limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_counts() {
        let resources =
            |time, timeout| Resources { time, timeout, ..Resources::default() }.limit().map(|(name, _)| name);
        let (short, long) = (Some(Duration(1)), Some(Duration(2)));
        assert_eq!(resources(None, None), None);
        assert_eq!(resources(short, None), Some("time"));
        assert_eq!(resources(None, short), Some("timeout"));
        assert_eq!(resources(long, short), Some("timeout"));
        assert_eq!(resources(short, long), Some("time"));
        assert_eq!(resources(short, short), Some("timeout"));
    }
}
