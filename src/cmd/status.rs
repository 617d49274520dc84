//! `flow status`: how a run stands or ended.

use std::{process::ExitCode, time::Duration};

use console::Term;
use flow_pipeline::{
    event::{self, state::RunState},
    run::{RunFolder, Standing},
};

use super::planning;
use crate::{
    cli::StatusArgs,
    failure::{Ended, Failure},
    view,
};

/// How often a run that is followed is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn status(args: &StatusArgs, json: bool) -> Ended {
    let folder = planning::run(&args.folder.store, args.run.as_deref())?;
    let state = if args.follow { follow(&folder, json)? } else { folder.state()? };
    let (standing, now) = (folder.standing(&state), event::now());
    if json {
        view::json::pretty(&view::status::value(&state, standing, &now));
    } else {
        view::print(&view::status::text(&state, standing, &now));
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the run has ended. A terminal shows meanwhile what runs; whoever reads from a pipe gets the end alone.
fn follow(folder: &RunFolder, json: bool) -> Result<RunState, Failure> {
    let terminal = Term::stdout();
    let live = view::screen::can_draw(&terminal) && !json;
    let mut drawn = 0;
    loop {
        let state = folder.state()?;
        // A terminal that cannot be drawn on is gone, and so is who looked at it.
        if live && terminal.clear_last_lines(drawn).is_err() {
            return Ok(state);
        }
        if folder.standing(&state) != Standing::Running {
            return Ok(state);
        }
        if live {
            let (rows, columns) = terminal.size();
            let text = view::status::under_way(&state, &event::now(), rows.into(), columns.into());
            drawn = text.lines().count();
            view::print(&text);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
