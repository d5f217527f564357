//! Panels of curves as SVG: logarithmic axes, one curve for each server.

use std::fmt::Write;

use crate::bench::table::show;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Around the curves, for words: left, right, above, below.
const MARGIN: [f64; 4] = [64.0, 20.0, 44.0, 46.0];
/// Bramble first.
const COLOURS: [&str; 2] = ["#0b7a4b", "#c2410c"];
const DASHES: [&str; 2] = ["none", "7 4"];

/// One figure against one quantity.
pub struct Panel {
    pub title: String,
    pub x_label: &'static str,
    pub curves: [Curve; 2],
}

/// A server's points, from left to right.
pub struct Curve {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// A logarithmic axis: the numbers at its ends, and where they are drawn.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(numbers: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (low, high) = numbers.fold((f64::INFINITY, 0.0_f64), |(low, high), number| (low.min(number), high.max(number)));
        Axis { low, high: high.max(low * 1.01), from, to }
    }

    /// The same with round numbers at both ends.
    fn rounded(self) -> Axis {
        let low = ticks(self.low / 5.0, self.low).last().copied().unwrap_or(self.low);
        let high = ticks(self.high, self.high * 5.0).first().copied().unwrap_or(self.high);
        Axis { low, high, ..self }
    }

    fn at(&self, number: f64) -> f64 {
        let share = (number.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + share * (self.to - self.from)
    }
}

/// 1, 2 and 5 in every decade between two numbers.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)));
    all.filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001).collect()
}

/// The panels, two in a row, below a title.
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(2) as f64;
    let (width, height) = (2.0 * WIDTH, rows * HEIGHT + 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, width / 2.0, 24.0, "middle", "font-size=\"16\" font-weight=\"bold\"", title);
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * WIDTH, (number / 2) as f64 * HEIGHT + 40.0);
        let _ = writeln!(out, "<g transform=\"translate({x},{y})\">");
        panel.draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let [left, right, above, below] = MARGIN;
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Axis::over(points().map(|point| point.0), left, WIDTH - right);
        let y = Axis::over(points().map(|point| point.1), HEIGHT - below, above).rounded();
        text(out, left, 18.0, "start", "font-weight=\"bold\"", &self.title);
        text(out, (x.from + x.to) / 2.0, HEIGHT - 8.0, "middle", "", self.x_label);
        for tick in ticks(y.low, y.high) {
            let at = y.at(tick);
            line(out, (x.from, at), (x.to, at), "stroke=\"#ddd\"");
            text(out, left - 6.0, at + 4.0, "end", "", &show(tick));
        }
        for &(tick, _) in &self.curves[0].points {
            let at = x.at(tick);
            line(out, (at, y.from), (at, y.to), "stroke=\"#eee\"");
            text(out, at, y.from + 16.0, "middle", "", &show_whole(tick));
        }
        line(out, (x.from, y.from), (x.to, y.from), "stroke=\"#222\"");
        line(out, (x.from, y.from), (x.from, y.to), "stroke=\"#222\"");
        for (number, curve) in self.curves.iter().enumerate() {
            curve.draw(out, number, &x, &y);
            let at = left + number as f64 * 110.0;
            let style = format!("stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"", COLOURS[number], DASHES[number]);
            line(out, (at, 32.0), (at + 26.0, 32.0), &style);
            text(out, at + 32.0, 36.0, "start", "", curve.name);
        }
    }
}

impl Curve {
    fn draw(&self, out: &mut String, number: usize, x: &Axis, y: &Axis) {
        let (colour, dash) = (COLOURS[number], DASHES[number]);
        let places: Vec<(f64, f64)> = self.points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            path.join(" ")
        );
        for ((x, y), (_, figure)) in places.iter().zip(&self.points) {
            let tip = format!("{}: {}", self.name, show(*figure));
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{tip}</title></circle>");
        }
    }
}

/// A number without a fraction, in thousands and millions where it is one.
fn show_whole(number: f64) -> String {
    match number {
        1e6.. => format!("{} M", number / 1e6),
        10e3.. => format!("{} k", number / 1e3),
        _ => format!("{number}"),
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>");
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(out, "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>", from.0, from.1, to.0, to.1);
}

#[test]
fn ticks_are_round_and_inside() {
    assert_eq!(ticks(0.3, 12.0), [0.5, 1.0, 2.0, 5.0, 10.0]);
    let axis = Axis::over([3.0, 700.0].into_iter(), 0.0, 100.0).rounded();
    assert_eq!((axis.low, axis.high), (2.0, 1000.0));
    assert!(axis.at(2.0) == 0.0 && (axis.at(1000.0) - 100.0).abs() < 1e-9 && axis.at(3.0) < axis.at(700.0));
}
