//! What holds between the attempts of a stage.

use std::sync::atomic::{AtomicBool, Ordering};

use flow_cache::{Acquired, Holder};

use super::*;
use crate::tests::world::World;

/// A rival asks for the lease all the time: while the stage pauses, and while it waits for cores after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_a_stage_over_that_pauses() {
    const PAUSE: Duration = Duration::from_millis(1600);
    const LIFE: Duration = Duration::from_secs(1);
    let world = World::new();
    let plan = world
        .plan(
            "\n  a: { kind: write, with: { text: x }, resources: { retries: { attempts: 2, backoff: 1600ms } } }\n",
            &[],
        )
        .await;
    let stage = plan.stages()[0].clone();
    let parts = stage.key_parts(&plan.numerics, |_| None).unwrap();
    let (key, cache) = (parts.key(), world.cache.clone());
    let acquired = cache.acquire(&key, &Holder::this_process("ours"), SystemTime::now(), LIFE).await.unwrap();
    let Acquired::Yes(lease) = acquired else { panic!("{acquired:?}") };
    let work = Attempt {
        stage,
        parts,
        key,
        lease: lease.clone(),
        inputs: Vec::new(),
        device: "cpu".into(),
        cores: 1,
        log: world.dir.path().join("log"),
        run: "ours".into(),
        host: "here".into(),
        version: "0.0.0".into(),
    };

    let over = Arc::new(AtomicBool::new(false));
    let rival = tokio::spawn({
        let (cache, over) = (cache.clone(), Arc::clone(&over));
        async move {
            let mut asked = 0;
            while !over.load(Ordering::SeqCst) {
                let holder = Holder::this_process("rival");
                let answer = cache.acquire(&key, &holder, SystemTime::now(), LIFE).await.unwrap();
                if over.load(Ordering::SeqCst) {
                    break;
                }
                assert!(matches!(answer, Acquired::HeldBy { .. }), "after {asked} times: {answer:?}");
                asked += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            asked
        }
    });
    let executor = Arc::new(World::executor(&["a"]));
    let (_stop, stopped) = watch::channel(Stop::No);
    let mut reports = Vec::new();
    let wish = || {
        let (cores, given) = oneshot::channel();
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            let _ = cores.send(());
        });
        given
    };
    let begun = Instant::now();
    let ended = attempt(cache.clone(), executor, work, stopped, &mut |report| reports.push(report), &wish).await;
    let held = cache.still_holds(&lease).await.unwrap();
    over.store(true, Ordering::SeqCst);
    assert!(matches!(ended, Ended::Done { .. }), "{ended:?}");
    assert!(held && begun.elapsed() >= 2 * PAUSE && 2 * PAUSE > 3 * LIFE, "{:?}", begun.elapsed());
    assert!(rival.await.unwrap() > 10, "the rival hardly asked");
    assert!(matches!(reports[0], Report::Retrying { attempt: 2, of: 2, .. }), "{reports:?}");
}
