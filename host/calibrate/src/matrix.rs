//! The weights to be quantised.

use crate::CalibrateError;

/// A weight matrix `[out, in]`, row-major: not empty, and all of it finite.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    rows: usize,
    columns: usize,
    data: &'a [f32],
}

impl<'a> Matrix<'a> {
    /// The matrix of these elements.
    ///
    /// # Errors
    /// [`CalibrateError::Size`], also for a matrix of nothing; [`CalibrateError::Weight`] for the
    /// first NaN or infinity.
    pub fn new(rows: usize, columns: usize, data: &'a [f32]) -> Result<Matrix<'a>, CalibrateError> {
        let wants = rows.saturating_mul(columns);
        if data.len() != wants || wants == 0 {
            let wants = wants.max(1);
            return Err(CalibrateError::Size { what: "a weight", has: data.len(), wants });
        }
        if let Some(at) = data.iter().position(|w| !w.is_finite()) {
            let (row, column) = (at / columns, at % columns);
            return Err(CalibrateError::Weight { row, column, value: data[at] });
        }
        Ok(Matrix { rows, columns, data })
    }

    /// How many outputs it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many inputs it has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its elements.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// The largest magnitude of all.
    pub fn absmax(&self) -> f32 {
        absmax(self.data)
    }

    /// The largest magnitude of each input's weights, `[in]`.
    pub fn column_absmax(&self) -> Vec<f32> {
        let mut most = vec![0.0f32; self.columns];
        for row in self.data.chunks_exact(self.columns) {
            for (most, w) in most.iter_mut().zip(row) {
                *most = most.max(w.abs());
            }
        }
        most
    }
}

/// The largest magnitude.
pub(crate) fn absmax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// At most so many rows, evenly spread.
pub(crate) fn spread(matrix: Matrix, most: usize) -> Vec<f32> {
    let every = matrix.rows().div_ceil(most);
    let rows = matrix.data().chunks_exact(matrix.columns());
    rows.step_by(every).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_weight_that_is_no_number_is_named() {
        let refused = Matrix::new(2, 2, &[1.0, 2.0, f32::INFINITY, f32::NAN]).unwrap_err();
        assert_eq!(refused, CalibrateError::Weight { row: 1, column: 0, value: f32::INFINITY });
        assert!(matches!(Matrix::new(2, 2, &[1.0; 3]), Err(CalibrateError::Size { .. })));
        assert!(matches!(Matrix::new(0, 2, &[]), Err(CalibrateError::Size { .. })));
    }

    #[test]
    fn columns_have_maxima_and_factors() {
        let matrix = Matrix::new(2, 2, &[1.0, -4.0, -3.0, 2.0]).unwrap();
        assert_eq!(matrix.column_absmax(), [3.0, 4.0]);
        assert_eq!(matrix.absmax(), 4.0);
    }
}
