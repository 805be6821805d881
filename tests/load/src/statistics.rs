//! Medians, and ratios that are taken round by round: what disturbs the machine disturbs both sides of a round.

use std::time::Duration;

/// The middle one; none of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of the rounds' ratios; none where one side was left out.
pub(crate) fn ratio(values: &[f64], to: &[f64]) -> Option<f64> {
    let ratios: Vec<_> = values.iter().zip(to).map(|(value, to)| value / to).collect();
    median(&ratios)
}

/// The figure as text, a dash where there is none.
pub(crate) fn written(figure: Option<f64>, digits: usize, unit: &str) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$} {unit}"))
}

/// In microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// In milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_rounds_and_not_of_sides() {
        let ratio = ratio(&[10.0, 30.0, 4.0], &[5.0, 10.0, 4.0]).unwrap();
        assert!((ratio - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_was_left_out_is_a_dash() {
        assert_eq!(written(ratio(&[1.0], &[]), 2, "×"), "–");
        assert_eq!(written(median(&[1.0, 2.0]), 2, "×"), "1.50 ×");
    }
}
