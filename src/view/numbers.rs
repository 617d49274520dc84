//! Numbers as people read them.

/// `1.5 s`, `2 min 03 s`, `1 h 20 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{} min {:02} s", whole / 60, whole % 60);
    }
    let minutes = (whole + 30) / 60;
    if minutes < 48 * 60 {
        return format!("{} h {:02} min", minutes / 60, minutes % 60);
    }
    format!("{:.1} days", seconds / 86_400.0)
}

/// `1 run`, `2 runs`.
pub fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// How long ago a time (RFC 3339) was, roughly.
pub fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return "–".into() };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `950`, `1.2K`, `33.3B`, `1.00e22` beyond what has a letter.
pub fn count(value: f64) -> String {
    for (scale, letter) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")] {
        if value >= scale {
            let scaled = value / scale;
            if scaled >= 1e3 {
                return format!("{value:.2e}");
            }
            return if scaled >= 100.0 { format!("{scaled:.0}{letter}") } else { format!("{scaled:.1}{letter}") };
        }
    }
    format!("{value:.0}")
}

/// Hours of devices: `0.4`, `33.5K`.
pub fn hours(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { count(value) }
}

/// Four digits that count: `2.346`, `123`, `1.50e-5`.
pub fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e4).contains(&size) {
        format!("{:.*}", if size >= 100.0 { 0 } else { 3 }, value)
    } else if size >= 1e4 {
        count(value)
    } else {
        format!("{value:.2e}")
    }
}

/// Two figures and their difference, with as many digits as it takes to tell them apart; whole numbers as such.
pub fn difference(first: f64, second: f64) -> [String; 3] {
    let by = second - first;
    let whole = |value: f64| value.fract() == 0.0 && value.abs() < 1e15;
    if whole(first) && whole(second) {
        return [format!("{first:.0}"), format!("{second:.0}"), format!("{by:+.0}")];
    }
    let size = first.abs().max(second.abs());
    // Four digits of the larger one, and two of the difference at least; no more than a double has.
    let place = |value: f64, digits: i32| digits - 1 - value.abs().log10().floor() as i32;
    let decimals = if by == 0.0 { place(size, 4) } else { place(size, 4).max(place(by, 2)) };
    let decimals = decimals.min(place(size, 15)).max(0);
    if size < 1e-4 || decimals > 12 {
        let digits = (decimals - place(size, 1)).clamp(0, 14) as usize;
        return [format!("{first:.digits$e}"), format!("{second:.digits$e}"), format!("{by:+.1e}")];
    }
    let decimals = decimals as usize;
    [format!("{first:.decimals$}"), format!("{second:.decimals$}"), format!("{by:+.decimals$}")]
}

/// `512 B`, `3.4 MiB`, `1.2 TiB`.
pub fn bytes(value: u64) -> String {
    for (power, unit) in [(4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")] {
        let scale = 1024f64.powi(power);
        if value as f64 >= scale {
            return format!("{:.1} {unit}", value as f64 / scale);
        }
    }
    format!("{value} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let read: Vec<String> = [0.04, 59.96, 123.0, 4800.0, 1e6].map(duration).into();
        assert_eq!(read, ["0.0 s", "60.0 s", "2 min 03 s", "1 h 20 min", "11.6 days"]);
        assert_eq!([950.0, 1234.0, 33.3e9, 1e12, 4.2e22].map(count), ["950", "1.2K", "33.3B", "1.0T", "4.20e22"]);
        assert_eq!([0, 1, 2].map(|count| counted(count, "run")), ["0 runs", "1 run", "2 runs"]);
        let figures = [0.0, 2.34567, 0.003, 1.5e-5, 123.4, 56_789.0].map(figure);
        assert_eq!(figures, ["0.000", "2.346", "0.003", "1.50e-5", "123", "56.8K"]);
        for (first, second, want) in [
            (98.0, 118.0, ["98", "118", "+20"]),
            (3e-4, 2.7e-4, ["0.0003000", "0.0002700", "-0.0000300"]),
            (3.364_21, 3.364_19, ["3.364210", "3.364190", "-0.000020"]),
            (2.5, 3.0, ["2.500", "3.000", "+0.500"]),
            (1.25e-5, 1.5e-5, ["1.250e-5", "1.500e-5", "+2.5e-6"]),
            (0.5, f64::NAN, ["0.5000", "NaN", "NaN"]),
        ] {
            assert_eq!(difference(first, second), want);
        }
        assert_eq!([12, 2048, 5 << 30].map(bytes), ["12 B", "2.0 KiB", "5.0 GiB"]);
    }
}
