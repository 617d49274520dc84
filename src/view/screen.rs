//! What can be shown where: colours, and what moves the cursor. Decided here alone, for all commands and for their help.

use std::{env, ffi::OsStr};

use console::Term;

/// Decides on colours, once, before anything is shown.
pub fn decide() {
    console::set_colors_enabled(has_colours(&Term::stdout()));
    console::set_colors_enabled_stderr(has_colours(&Term::stderr()));
}

/// Whether what moves the cursor may be drawn there.
pub fn can_draw(terminal: &Term) -> bool {
    terminal.is_term() && !console::is_dumb()
}

fn has_colours(terminal: &Term) -> bool {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    colours([variable("NO_COLOR"), variable("CLICOLOR_FORCE"), variable("CLICOLOR")].each_ref().map(Option::as_deref))
        .unwrap_or_else(|| can_draw(terminal))
}

/// What `NO_COLOR`, `CLICOLOR_FORCE` and `CLICOLOR` say, in this order; one that is set to nothing counts as not set. Nothing where
/// the terminal decides.
fn colours([none, force, some]: [Option<&OsStr>; 3]) -> Option<bool> {
    match (none, force, some) {
        (Some(_), _, _) => Some(false),
        (None, Some(force), _) if force != "0" => Some(true),
        (None, _, Some(some)) if some == "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_no_colours_has_the_last_word() {
        for (variables, shown) in [
            ([None, None, None], None),
            ([Some("1"), Some("1"), None], Some(false)),
            ([None, Some("1"), None], Some(true)),
            ([None, Some("1"), Some("0")], Some(true)),
            ([None, Some("0"), None], None),
            ([None, Some("0"), Some("0")], Some(false)),
            ([None, None, Some("0")], Some(false)),
            ([None, None, Some("1")], None),
        ] {
            assert_eq!(colours(variables.map(|value| value.map(OsStr::new))), shown, "{variables:?}");
        }
    }
}
