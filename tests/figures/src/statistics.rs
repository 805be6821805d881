//! Medians, percentiles, and ratios that are taken round by round: what disturbs the machine disturbs both sides of a
//! round. Means say little on a machine that is shared. What was not measured is NaN, and stays so.

use std::time::Duration;

/// The middle one, NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value below which `percent` of all lie, NaN of none.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// The median of the rounds' ratios, NaN where one side was left out.
pub fn ratio(values: &[f64], to: &[f64]) -> f64 {
    let ratios: Vec<_> = values.iter().zip(to).map(|(value, to)| value / to).collect();
    median(&ratios)
}

/// The figure as text, a dash where there is none.
pub fn written(figure: f64, digits: usize, unit: &str) -> String {
    if figure.is_nan() { "–".to_owned() } else { format!("{figure:.digits$} {unit}") }
}

/// In microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!((median(&[9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_last_percentile_is_a_value() {
        assert!((percentile(&[1.0, 2.0, 3.0], 100) - 3.0).abs() < f64::EPSILON);
        assert!((percentile(&[1.0, 2.0, 3.0, 4.0], 50) - 3.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_ratio_is_the_median_of_rounds_and_not_of_sides() {
        assert!((ratio(&[10.0, 30.0, 4.0], &[5.0, 10.0, 4.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_was_left_out_is_a_dash() {
        assert_eq!(written(ratio(&[1.0], &[]) / 2.0, 2, "×"), "–");
        assert_eq!(written(median(&[1.0, 2.0]), 2, "×"), "1.50 ×");
    }
}
