//! Prometheus's text exposition format, version 0.0.4. In: families, each with its samples. Out: text. Numbers look as Go prints
//! them, because a histogram's bounds are labels, and labels are compared as text.

use super::kinds::{Counter, Gauge, Histogram};

/// The format's content type, as etcd 3.7 says it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The text as it grows. A family without samples is left out.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Text {
        Text { text: String::with_capacity(128 * 1024) }
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    /// A family that has nothing but one counter.
    pub fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.counters(name, help, [(&[][..], counter.get() as f64)]);
    }

    /// A family of counters by labels.
    pub fn counters<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (&'a [Label<'a>], f64)>) {
        self.family(name, help, Kind::Counter, samples);
    }

    /// A family that has nothing but one gauge.
    pub fn gauge(&mut self, name: &str, help: &str, gauge: &Gauge) {
        self.value(name, help, gauge.get() as f64);
    }

    /// A family that has nothing but one gauge, read just now.
    pub fn value(&mut self, name: &str, help: &str, value: f64) {
        self.values(name, help, [(&[][..], value)]);
    }

    /// A family of gauges by labels, read just now.
    pub fn values<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (&'a [Label<'a>], f64)>) {
        self.family(name, help, Kind::Gauge, samples);
    }

    /// A family that has nothing but one histogram.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histograms(name, help, [(&[][..], histogram)]);
    }

    /// A family of histograms by labels.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [Label<'a>], &'a Histogram)>,
    ) {
        let mut head_is_written = false;
        for (labels, histogram) in samples {
            if !std::mem::replace(&mut head_is_written, true) {
                self.head(name, help, Kind::Histogram);
            }
            let summed = histogram.summed();
            for (bound, count) in &summed.buckets {
                self.sample(name, "_bucket", labels, Some(("le", bound)), *count as f64);
            }
            self.sample(name, "_sum", labels, None, summed.sum);
            self.sample(name, "_count", labels, None, summed.count() as f64);
        }
    }

    fn family<'a>(&mut self, name: &str, help: &str, kind: Kind, samples: impl IntoIterator<Item = (&'a [Label<'a>], f64)>) {
        let mut head_is_written = false;
        for (labels, value) in samples {
            if !std::mem::replace(&mut head_is_written, true) {
                self.head(name, help, kind);
            }
            self.sample(name, "", labels, None, value);
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: Kind) {
        self.push(&["# HELP ", name, " "]);
        escape(help, false, &mut self.text);
        self.push(&["\n# TYPE ", name, " ", kind.name(), "\n"]);
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[Label<'_>], last: Option<Label<'_>>, value: f64) {
        self.push(&[name, suffix]);
        let mut before = "{";
        for (name, value) in labels.iter().chain(&last) {
            self.push(&[std::mem::replace(&mut before, ","), name, "=\""]);
            escape(value, true, &mut self.text);
            self.text.push('"');
        }
        if before == "," {
            self.text.push('}');
        }
        self.push(&[" ", &go_float(value), "\n"]);
    }

    fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }
}

/// Help texts escape line feeds and backslashes, label values quotes too.
fn escape(text: &str, quotes: bool, into: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '"' if quotes => into.push_str("\\\""),
            c => into.push(c),
        }
    }
}

/// A number as Go's `strconv` prints it with `'g', -1`: the shortest digits that read back as the same number, with an exponent
/// of two digits or more below 1e-4 and from 1e6 on.
pub fn go_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("it is asked for");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if value != 0.0 && !(-4..PLAIN_DIGITS).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// Numbers from ten to this power on have an exponent.
const PLAIN_DIGITS: i32 = 6;

#[cfg(test)]
mod tests {
    use super::super::kinds::Scale;
    use super::*;

    #[test]
    fn numbers_look_as_go_prints_them() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (7.5323e-05, "7.5323e-05"),
            (819_200.0, "819200"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (1_048_576.0, "1.048576e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1_795_446_016.58, "1.79544601658e+09"),
            (1e100, "1e+100"),
            (1.8446744073709552e19, "1.8446744073709552e+19"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(go_float(number), text);
        }
    }

    #[test]
    fn a_family_has_its_help_and_type_once_and_before_its_samples() {
        let mut text = Text::new();
        text.counters("c_total", "What it is.", [(&[("a", "1"), ("b", "x")][..], 1.0), (&[][..], 2.0)]);
        text.value("g", "Another.", 0.5);
        let expected = "# HELP c_total What it is.\n# TYPE c_total counter\nc_total{a=\"1\",b=\"x\"} 1\nc_total 2\n\
                        # HELP g Another.\n# TYPE g gauge\ng 0.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_family_without_samples_is_left_out() {
        let mut text = Text::new();
        text.counters("c_total", "Nothing.", []);
        text.histograms("h", "Nothing.", []);
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let mut text = Text::new();
        text.values("g", "back\\slash \"quoted\"\nline", [(&[("l", "a\\b\"c\nd")][..], 1.0)]);
        let expected = "# HELP g back\\\\slash \"quoted\"\\nline\n# TYPE g gauge\ng{l=\"a\\\\b\\\"c\\nd\"} 1\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_its_count() {
        let histogram = Histogram::new(Scale::powers_of_two(2));
        for value in [1, 2, 2, 9] {
            histogram.observe_units(value);
        }
        let mut text = Text::new();
        text.histograms("h", "H.", [(&[("op", "Put")][..], &histogram)]);
        let expected = "# HELP h H.\n# TYPE h histogram\nh_bucket{op=\"Put\",le=\"1\"} 1\nh_bucket{op=\"Put\",le=\"2\"} 3\n\
                        h_bucket{op=\"Put\",le=\"+Inf\"} 4\nh_sum{op=\"Put\"} 14\nh_count{op=\"Put\"} 4\n";
        assert_eq!(text.finish(), expected);
    }
}
