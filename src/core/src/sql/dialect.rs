//! The same transformation in the words of Spark.
//!
//! A text that [`check`](super::check) accepts means the same to both engines but for two things: placeholders, which stand for
//! times, and strings, in which a backslash is a character to one engine and begins an escape to the other. Both are told apart from
//! comments and quoted names by the tokens, never by looking at the text.

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Location, Token, Tokenizer, TokenizerError};

/// A part of a transformation for Spark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// The place of a parameter, by its name without the sign before it.
    Parameter(String),
}

/// The parts of an accepted transformation: texts, and between them parameters.
pub fn for_spark(sql: &str) -> Result<Vec<Piece>, TokenizerError> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location()?;
    let offsets = Offsets::new(sql);
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut taken = 0;
    for token in tokens {
        let (from, to) = (offsets.of(token.span.start), offsets.of(token.span.end));
        match token.token {
            Token::Placeholder(name) => {
                text.push_str(&sql[taken..from]);
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Parameter(name.trim_start_matches('$').to_owned()));
            }
            Token::SingleQuotedString(value) => {
                text.push_str(&sql[taken..from]);
                text.push_str(&literal(&value));
            }
            _ => continue,
        }
        taken = to;
    }
    text.push_str(&sql[taken..]);
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

/// A string as Spark reads it: two quotes in a row and single backslashes mean something else to it.
fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Where the lines of a text begin.
struct Offsets<'a> {
    sql: &'a str,
    lines: Vec<usize>,
}

impl<'a> Offsets<'a> {
    fn new(sql: &'a str) -> Self {
        let ends = sql.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { sql, lines: std::iter::once(0).chain(ends).collect() }
    }

    /// The byte at a place that is told in lines and characters, both from 1.
    fn of(&self, at: Location) -> usize {
        let line = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(start) = self.lines.get(line) else { return self.sql.len() };
        let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let rest = &self.sql[*start..];
        start + rest.char_indices().nth(column).map_or(rest.len(), |(offset, _)| offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(sql: &str) -> String {
        let piece = |piece: Piece| match piece {
            Piece::Text(text) => text,
            Piece::Parameter(name) => format!("<{name}>"),
        };
        for_spark(sql).expect(sql).into_iter().map(piece).collect()
    }

    #[test]
    fn placeholders_become_parameters_and_nothing_else_does() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT * FROM c WHERE t >= $start AND t<$stop", "SELECT * FROM c WHERE t >= <start> AND t<<stop>"),
            ("SELECT $window_start,$window_stop", "SELECT <window_start>,<window_stop>"),
            ("SELECT '$start', $start", "SELECT '$start', <start>"),
            ("SELECT \"$start\", `$stop`, $stop", "SELECT \"$start\", `$stop`, <stop>"),
            ("-- $start\nSELECT /* $stop */ $start", "-- $start\nSELECT /* $stop */ <start>"),
            (
                "SELECT 'é$start' AS é, -- ü\n  $start, '🚲', $stop FROM ü",
                "SELECT 'é$start' AS é, -- ü\n  <start>, '🚲', <stop> FROM ü",
            ),
            ("SELECT\r\n$start\r\n, $stop", "SELECT\r\n<start>\r\n, <stop>"),
            ("SELECT\t$start", "SELECT\t<start>"),
        ] {
            assert_eq!(shown(sql), expected);
        }
    }

    #[test]
    fn strings_keep_their_characters() {
        for (sql, expected) in [
            ("SELECT 'it''s', $start", r"SELECT 'it\'s', <start>"),
            (r"SELECT regexp_like(url, '\d+\.html') AND $start", r"SELECT regexp_like(url, '\\d+\\.html') AND <start>"),
            ("SELECT 'two\nlines', $stop, ''", "SELECT 'two\nlines', <stop>, ''"),
            ("SELECT '''', '', 'a''''b'", r"SELECT '\'', '', 'a\'\'b'"),
            (r#"SELECT "a\b", `c\d` -- it's \ $start"#, r#"SELECT "a\b", `c\d` -- it's \ $start"#),
        ] {
            assert_eq!(shown(sql), expected);
        }
    }
}
