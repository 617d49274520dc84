//! Says on the terminal, or in the log of a stage, that a store keeps flow waiting.

use std::fmt::{Debug, Write};

use flow_cache::WAITS;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    layer::Context,
    registry::LookupSpan,
};

use super::terminal;

/// Hears the word of those who wait.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Waits.with_filter(filter_fn(|metadata| metadata.target() == WAITS).with_max_level_hint(LevelFilter::WARN))
}

struct Waits;

impl<S: Subscriber> Layer<S> for Waits {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said(String::new());
        event.record(&mut said);
        terminal::waiting(said.0.strip_prefix("waiting ").unwrap_or(&said.0));
    }
}

struct Said(String);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
