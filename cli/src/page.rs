//! Lists come in pages, so that a realm of a hundred thousand hosts does not scroll by.

use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::output::{Show, table};

/// Which part of a list to print.
#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// The page, from 1
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub page: usize,
    /// How many to a page
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub limit: usize,
}

/// One row of a list.
pub trait Row: Serialize {
    /// The columns' names.
    const HEADING: &'static [&'static str];
    /// The columns.
    fn cells(&self) -> Vec<String>;
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// The rows of this page.
    pub items: Vec<T>,
    /// From 1.
    pub page: usize,
    /// The most that a page holds.
    pub limit: usize,
    /// How many rows all pages hold.
    pub total: usize,
}

impl<T: Row> Page<T> {
    /// Cuts the page out of the whole list.
    ///
    /// # Errors
    /// [`CliError::Page`] for a page beyond the last; the first page of an empty list is there.
    pub fn cut(all: impl IntoIterator<Item = T>, args: &PageArgs) -> Result<Self, CliError> {
        let all: Vec<T> = all.into_iter().collect();
        let total = all.len();
        let pages = total.div_ceil(args.limit.max(1)).max(1);
        if args.page > pages {
            return Err(CliError::Page { page: args.page, pages });
        }
        let skip = args.page.saturating_sub(1).saturating_mul(args.limit);
        let items = all.into_iter().skip(skip).take(args.limit).collect();
        Ok(Self { items, page: args.page, limit: args.limit, total })
    }
}

impl<T: Row> Show for Page<T> {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.items.iter().map(Row::cells).collect();
        let mut text = table(T::HEADING, &rows);
        let pages = self.total.div_ceil(self.limit.max(1));
        if pages > 1 {
            text.push_str(&format!("page {} of {pages}, {} in all\n", self.page, self.total));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize)]
    struct Number(usize);

    impl Row for Number {
        const HEADING: &'static [&'static str] = &["N"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_string()]
        }
    }

    #[test]
    fn pages_cover_the_list_without_overlap() {
        let mut seen = Vec::new();
        for page in 1..=3 {
            let page = Page::cut((0..7).map(Number), &PageArgs { page, limit: 3 }).unwrap();
            assert_eq!(page.total, 7);
            seen.extend(page.items.into_iter().map(|number| number.0));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_page_beyond_the_last_is_an_error_that_says_how_many_there_are() {
        let error = Page::cut((0..7).map(Number), &PageArgs { page: 4, limit: 3 }).unwrap_err();
        assert_eq!(error.to_string(), "page 4: the list has 3 pages");
    }

    #[test]
    fn the_first_page_of_an_empty_list_is_there() {
        let page = Page::cut(std::iter::empty::<Number>(), &PageArgs { page: 1, limit: 3 }).unwrap();
        assert_eq!(page.text(), "N\n");
    }
}
