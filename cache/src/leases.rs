//! Who works on a stage key now, so that two runs on one store do not do the same work.
//!
//! Each attempt is a file of its own, `leases/<key>/<attempt>.json`, and the highest attempt counts. It is made with
//! put-if-absent, and from then on only its holder writes to it (to renew, to release). So a lease needs no
//! compare-and-swap, which folders do not have and radosgw only in a dialect; and an attempt number, once passed, never
//! comes back, which fences a holder that slept through its expiry: [`Cache::still_holds`] tells it.
//!
//! The clock is handed in. Clocks of two machines may differ, by less than a lease lives: it should live for minutes, and be
//! renewed several times in that. Should the holder's clock be far ahead, or one's own jump back, its lease would seem to
//! live for days; so a lease that one has seen for two lifetimes of one's own clock, and that was not renewed, has ended too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    cache::Cache,
    digest::StageKey,
    error::{Error, Result},
    holder::Holder,
    layout,
    staged::nonce,
    store::Store,
};

/// The right to work on a stage key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The key.
    pub key: StageKey,
    /// Counts up with each acquisition of the key: the fence.
    pub attempt: u64,
    /// Who got it.
    pub holder: Holder,
    /// For how long a renewal holds.
    pub ttl: Duration,
    /// Tells apart two acquisitions by one process.
    nonce: u64,
}

/// What became of the wish for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It was granted.
    Yes(Lease),
    /// Somebody else has it.
    HeldBy {
        /// Who.
        holder: Holder,
        /// Until when, unless it is renewed.
        until: SystemTime,
    },
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Attempt {
    format: u32,
    holder: Holder,
    /// Milliseconds since 1970.
    until: u64,
    released: bool,
    nonce: u64,
}

impl Lease {
    fn file(&self, until: SystemTime, released: bool) -> Bytes {
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let attempt = Attempt { format: 1, holder: self.holder.clone(), until, released, nonce: self.nonce };
        // Plain fields: there is nothing here that JSON could not hold.
        let mut text = serde_json::to_vec_pretty(&attempt).unwrap_or_default();
        text.push(b'\n');
        text.into()
    }
}

impl Cache {
    /// Asks for the lease of `key` until `now + ttl`. A lease that expired, was released, or whose holder is a process of
    /// this host that has ended, is passed on with the next attempt number. Where the holder lives on this host, a lease has
    /// expired only once it was seen for two lifetimes and not renewed. A lease file that cannot be read is
    /// taken as expired: the fence keeps its holder, should there be one, from publishing.
    pub async fn acquire(&self, key: &StageKey, holder: &Holder, now: SystemTime, ttl: Duration) -> Result<Acquired> {
        loop {
            let attempts = self.attempts(key).await?;
            let last = attempts.last().copied().unwrap_or(0);
            if last > 0
                && let Some(current) = self.attempt(key, last).await?
            {
                let until = UNIX_EPOCH + Duration::from_millis(current.until);
                // Of a process that lives on this machine a clock that jumped says nothing.
                let lasts = now < until || current.holder.is_seen_alive();
                let holds = !current.released && lasts && !current.holder.is_dead();
                if holds && !self.is_silent(key, (last, current.until), now, ttl) {
                    return Ok(Acquired::HeldBy { holder: current.holder, until });
                }
            }
            let Some(attempt) = layout::next_attempt(last) else { return Err(Error::LastAttempt { key: *key }) };
            let lease = Lease { key: *key, attempt, holder: holder.clone(), ttl, nonce: nonce() };
            let created =
                self.shared().create(&layout::lease(key, lease.attempt), lease.file(now + ttl, false)).await?;
            // A create that was retried after a lost answer meets its own file, and looks refused.
            if !created && self.attempt(key, lease.attempt).await?.is_none_or(|found| found.nonce != lease.nonce) {
                continue;
            }
            // Who slept between looking and creating may have created a number that had been passed and cleared away.
            let holds = self.still_holds(&lease).await;
            if !matches!(holds, Ok(true)) {
                let removed = self.shared().remove(&layout::lease(key, lease.attempt)).await;
                // Nobody knows of it: it must not keep who asks again.
                holds.and(removed)?;
                continue;
            }
            for passed in attempts {
                // The highest counts: what stays does no harm.
                if let Err(error) = self.shared().remove(&layout::lease(key, passed)).await {
                    tracing::warn!(%error, "a lease that was passed on could not be removed");
                }
            }
            return Ok(Acquired::Yes(lease));
        }
    }

    /// Whether this very lease, not renewed, was seen two lifetimes ago.
    fn is_silent(&self, key: &StageKey, lease: (u64, u64), now: SystemTime, ttl: Duration) -> bool {
        // A panic while this was held left a map that is whole.
        let mut seen = self.seen().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match seen.get(key) {
            Some((known, since)) if *known == lease && *since <= now => {
                now.duration_since(*since).is_ok_and(|silent| silent > 2 * ttl)
            }
            _ => {
                seen.insert(*key, (lease, now));
                false
            }
        }
    }

    /// Prolongs the lease until `now` plus its time to live; `false` if it was lost, and then nothing may be published.
    pub async fn renew(&self, lease: &Lease, now: SystemTime) -> Result<bool> {
        self.shared().renew(lease, now).await
    }

    /// Gives the lease back; `false` if it was lost before. Its file stays, so that the number is not used again.
    pub async fn release(&self, lease: &Lease) -> Result<bool> {
        self.shared().release(lease).await
    }

    /// Is there no later attempt? A lease that has expired and that nobody else took is still held.
    pub async fn still_holds(&self, lease: &Lease) -> Result<bool> {
        self.shared().still_holds(lease).await
    }

    async fn attempts(&self, key: &StageKey) -> Result<Vec<u64>> {
        self.shared().attempts(key).await
    }

    async fn attempt(&self, key: &StageKey, attempt: u64) -> Result<Option<Attempt>> {
        self.shared().attempt(key, attempt).await
    }
}

impl Store {
    pub(crate) async fn renew(&self, lease: &Lease, now: SystemTime) -> Result<bool> {
        if !self.still_holds(lease).await? {
            return Ok(false);
        }
        self.replace(&layout::lease(&lease.key, lease.attempt), lease.file(now + lease.ttl, false)).await?;
        self.still_holds(lease).await
    }

    pub(crate) async fn release(&self, lease: &Lease) -> Result<bool> {
        if !self.still_holds(lease).await? {
            return Ok(false);
        }
        // One that cannot be read has ended too.
        self.overwrite(&layout::lease(&lease.key, lease.attempt), lease.file(UNIX_EPOCH, true)).await?;
        Ok(true)
    }

    async fn still_holds(&self, lease: &Lease) -> Result<bool> {
        if self.attempts(&lease.key).await?.last() != Some(&lease.attempt) {
            return Ok(false);
        }
        let found = self.attempt(&lease.key, lease.attempt).await?;
        Ok(found.is_some_and(|found| found.nonce == lease.nonce && !found.released))
    }

    /// The numbers of the attempts that have a file, ascending.
    async fn attempts(&self, key: &StageKey) -> Result<Vec<u64>> {
        let found = self.names(&layout::leases(key)).await?;
        let mut found: Vec<u64> = found.iter().filter_map(|name| layout::attempt(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    async fn attempt(&self, key: &StageKey, attempt: u64) -> Result<Option<Attempt>> {
        let bytes = self.read(&layout::lease(key, attempt)).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}
