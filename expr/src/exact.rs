//! Sums and averages of floats without rounding on the way: what they give does not depend on the order of the values.
//!
//! Shewchuk's algorithm, as in Python's `math.fsum`: a sum is kept as numbers that do not overlap, and rounded once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion_common::{DataFusionError, Result};
use datafusion_expr::{EmitTo, GroupsAccumulator};

/// What is kept of a group between batches.
pub(crate) const STATE: [DataType; 2] = [DataType::Binary, DataType::Int64];

/// A sum of finite numbers, exact; of others the sum as IEEE 754 has it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct ExactSum {
    /// Ascending in magnitude, none overlaps another.
    parts: Vec<f64>,
    /// Sum of what is infinite or not a number, also of what grew beyond the largest number on the way.
    special: f64,
}

impl ExactSum {
    pub(crate) fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.special += value;
            return;
        }
        let mut x = value;
        let mut kept = 0;
        for at in 0..self.parts.len() {
            let mut y = self.parts[at];
            if x.abs() < y.abs() {
                std::mem::swap(&mut x, &mut y);
            }
            let high = x + y;
            let low = y - (high - x);
            if low != 0.0 {
                self.parts[kept] = low;
                kept += 1;
            }
            x = high;
        }
        self.parts.truncate(kept);
        if !x.is_finite() {
            self.parts.clear();
            self.special += x;
        } else if x != 0.0 {
            self.parts.push(x);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.special += other.special;
        other.parts.iter().for_each(|part| self.add(*part));
    }

    /// Rounded to the nearest number, once.
    pub(crate) fn value(&self) -> f64 {
        if self.special != 0.0 {
            return self.special;
        }
        let mut parts = self.parts.iter().rev().copied();
        let Some(mut high) = parts.next() else { return 0.0 };
        let mut low = 0.0;
        for y in parts.by_ref() {
            let x = high;
            high = x + y;
            low = y - (high - x);
            if low != 0.0 {
                break;
            }
        }
        // Halfway between two numbers: what is left decides on which side.
        if let Some(next) = parts.next()
            && (low < 0.0 && next < 0.0 || low > 0.0 && next > 0.0)
        {
            let twice = low * 2.0;
            let up = high + twice;
            if twice == up - high {
                high = up;
            }
        }
        high
    }

    fn encode(&self) -> Vec<u8> {
        [self.special].iter().chain(&self.parts).flat_map(|part| part.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes));
        let special = numbers.next().filter(|_| rest.is_empty())?;
        Some(Self { special, parts: numbers.collect() })
    }
}

/// `sum` or `avg` of float64 columns.
#[derive(Debug, Default)]
pub(crate) struct ExactSums {
    average: bool,
    groups: Vec<(ExactSum, i64)>,
}

impl ExactSums {
    pub(crate) fn new(average: bool) -> Self {
        Self { average, groups: Vec::new() }
    }
}

impl GroupsAccumulator for ExactSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Default::default);
        let values = values.first().and_then(|array| array.as_primitive_opt::<Float64Type>()).ok_or_else(corrupt)?;
        for (row, group) in group_indices.iter().enumerate() {
            let counts = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if counts && values.is_valid(row) {
                let (sum, count) = &mut self.groups[*group];
                sum.add(values.value(row));
                *count += 1;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let value = |(sum, count): &(ExactSum, i64)| {
            let divisor = if self.average { *count as f64 } else { 1.0 };
            (*count > 0).then(|| sum.value() / divisor)
        };
        Ok(Arc::new(groups.iter().map(value).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        let mut sums = BinaryBuilder::new();
        groups.iter().for_each(|(sum, _)| sums.append_value(sum.encode()));
        let counts: Int64Array = groups.iter().map(|(_, count)| Some(*count)).collect();
        Ok(vec![Arc::new(sums.finish()), Arc::new(counts)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.resize_with(total_num_groups, Default::default);
        let [sums, counts] = values else { return Err(corrupt()) };
        let sums = sums.as_binary_opt::<i32>().ok_or_else(corrupt)?;
        let counts = counts.as_primitive_opt::<Int64Type>().ok_or_else(corrupt)?;
        for (row, group) in group_indices.iter().enumerate() {
            let (sum, count) = &mut self.groups[*group];
            sum.merge(&ExactSum::decode(sums.value(row)).ok_or_else(corrupt)?);
            *count += counts.value(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.groups.iter().map(|(sum, _)| size_of_val(sum) + sum.parts.capacity() * 8).sum()
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |array| array.len());
        let mut each = Self::new(self.average);
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), opt_filter, rows)?;
        each.state(EmitTo::All)
    }
}

fn corrupt() -> DataFusionError {
    DataFusionError::Internal("the state of a sum is not one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum.value()
    }

    #[test]
    fn is_what_python_says() {
        // python3 -c 'import math; print(math.fsum([...]))'
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e100, 1.0, -1e100, 1e-100, 1e50, -1.0, -1e50]), 1e-100);
        assert_eq!(sum(&[1.0, 1e-16, 1e-16]), 1.000_000_000_000_000_2);
        assert_eq!(sum(&[2f64.powi(53), -0.5, -(2f64.powi(-54))]), 2f64.powi(53) - 1.0);
        assert_eq!(sum(&[2f64.powi(53), 1.0, 2f64.powi(-100)]), 2f64.powi(53) + 2.0);
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn does_not_depend_on_order_or_on_merging() {
        let values: Vec<f64> = (0..200).map(|i| (f64::from(i) * 0.731).sin() * 10f64.powi(i % 40 - 20)).collect();
        let whole = sum(&values);
        let mut reversed = values.clone();
        reversed.reverse();
        assert_eq!(sum(&reversed), whole);
        let (mut left, mut right) = (ExactSum::default(), ExactSum::default());
        values[..77].iter().for_each(|value| left.add(*value));
        values[77..].iter().for_each(|value| right.add(*value));
        right = ExactSum::decode(&right.encode()).unwrap();
        left.merge(&right);
        assert_eq!(left.value(), whole);
        assert_eq!(ExactSum::decode(&[1, 2, 3]), None);
    }
}
