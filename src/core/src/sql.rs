//! What a transformation and a check may say.
//!
//! A transformation is exactly one SELECT over its sources. It is refused here, before any Job, when it could do or read anything
//! else, in either engine: the worker's engine has statements switched off as well and knows no other table. What the columns are
//! and whether functions exist is the engine's to say.

use sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, Spanned, Statement, TableFactor, Value, ValueWithSpan, Visit,
    Visitor,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use std::ops::ControlFlow;

mod dialect;

pub use dialect::{Piece, for_spark};

/// Placeholders of every transformation.
const BOUNDS: [&str; 2] = ["$start", "$stop"];

/// Placeholders of a feature set with windows.
const WINDOW_BOUNDS: [&str; 2] = ["$window_start", "$window_stop"];

/// Functions that run code outside the engine, and why they are refused.
const CODE: [&str; 4] = ["reflect", "try_reflect", "java_method", "reflect2"];

/// Functions whose arguments name files or addresses that the engine would read.
const READS: [&str; 10] = [
    "from_avro",
    "from_protobuf",
    "from_xml",
    "read_files",
    "schema_of_avro",
    "schema_of_xml",
    "table_changes",
    "table_changes_by_path",
    "to_avro",
    "to_protobuf",
];

/// Why a text is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(*line, *column))]
pub struct Rejected {
    /// The line in the text, from 1; 0 when it cannot be told.
    pub line: u64,
    /// The character in the line, from 1; 0 when it cannot be told.
    pub column: u64,
    /// What is wrong, with the way out.
    pub message: String,
}

fn place(line: u64, column: u64) -> String {
    if line == 0 { String::new() } else { format!("line {line}, column {column}: ") }
}

fn reject(at: Location, message: impl Into<String>) -> Rejected {
    Rejected { line: at.line, column: at.column, message: message.into() }
}

/// Accepts `sql` when it is exactly one SELECT (also with CTEs, subqueries, UNION and the like) over `sources`.
///
/// Names of sources match in any case, unless quoted. A semicolon at the end is refused too: the text is used inside other SQL.
pub fn check(sql: &str, sources: &[&str], has_windows: bool) -> Result<(), Rejected> {
    let placeholders = if has_windows { [BOUNDS, WINDOW_BOUNDS].concat() } else { BOUNDS.to_vec() };
    let tokens = tokens(sql, &placeholders)?;
    let first = tokens
        .iter()
        .find(|token| !matches!(token.token, Token::Whitespace(_)))
        .map_or(Location::new(0, 0), |token| token.span.start);
    let statements = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens).parse_statements().map_err(unreadable)?;
    let [statement] = &statements[..] else {
        return Err(reject(Location::new(0, 0), "there is no statement; write exactly one SELECT"));
    };
    let Statement::Query(_) = statement else {
        let word = sql_word(&statement.to_string());
        return Err(reject(first, format!("{word} is not allowed; write exactly one SELECT")));
    };
    visit(statement, Rules { sources, tables: Vec::new(), queries: true })
}

/// Accepts a predicate over the columns of one row: no subquery, no placeholder.
pub fn check_predicate(predicate: &str) -> Result<(), Rejected> {
    let tokens = tokens(predicate, &[])?;
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
    let expression = parser.parse_expr().map_err(unreadable)?;
    let next = parser.next_token();
    if next.token != Token::EOF {
        return Err(reject(next.span.start, format!("the predicate goes on at \"{next}\"; write one expression")));
    }
    visit(&expression, Rules { sources: &[], tables: Vec::new(), queries: false })
}

fn visit(node: &impl Visit, mut rules: Rules<'_>) -> Result<(), Rejected> {
    match node.visit(&mut rules) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(rejected) => Err(rejected),
    }
}

fn sql_word(sql: &str) -> String {
    sql.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_uppercase()
}

/// Splits the text, and refuses what the two engines read differently or what is never part of a SELECT.
fn tokens(sql: &str, placeholders: &[&str]) -> Result<Vec<TokenWithSpan>, Rejected> {
    for (pair, why) in [
        ("${", "\"${\" would be substituted by Spark; write $start, $stop, $window_start or $window_stop"),
        ("\\'", "a backslash before a quote is read differently by the engines; double the quote"),
        ("\\\"", "a backslash before a quote is read differently by the engines; double the quote"),
        ("\\`", "a backslash before a quote is read differently by the engines; double the quote"),
        ("\\\n", "a backslash at the end of a line is read differently by the engines; leave it out"),
        ("\\\r", "a backslash at the end of a line is read differently by the engines; leave it out"),
        ("/*+", "a hint is a comment to one engine only; leave it out"),
        ("\0", "the text holds a NUL character; leave it out"),
    ] {
        if let Some(before) = sql.find(pair).and_then(|offset| sql.get(..offset)) {
            return Err(reject(end_of(before), why));
        }
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| reject(error.location, error.message))?;
    let meaningful = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let mut rest = tokens.iter().filter(meaningful).peekable();
    while let Some(token) = rest.next() {
        check_token(token, rest.peek().is_none(), placeholders)?;
    }
    Ok(tokens)
}

fn end_of(text: &str) -> Location {
    let line = text.rsplit('\n').next().unwrap_or_default();
    Location::new(text.matches('\n').count() as u64 + 1, line.chars().count() as u64 + 1)
}

fn check_token(token: &TokenWithSpan, last: bool, placeholders: &[&str]) -> Result<(), Rejected> {
    let refuse = |message: String| Err(reject(token.span.start, message));
    match &token.token {
        Token::SemiColon if last => refuse("leave out the semicolon at the end".to_owned()),
        Token::SemiColon => refuse("only one statement is allowed; write exactly one SELECT, without a semicolon".to_owned()),
        Token::Placeholder(name) if placeholders.contains(&name.as_str()) => Ok(()),
        Token::Placeholder(name) => refuse(unknown_placeholder(name, placeholders)),
        Token::Colon => refuse(unknown_placeholder(":", placeholders)),
        Token::AtSign => refuse("variables are not allowed".to_owned()),
        Token::Word(word) if word.quote_style.is_none() && word.value.starts_with(['@', '#']) => {
            refuse(format!("\"{}\": variables are not allowed", word.value))
        }
        Token::DollarQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::QuoteDelimitedStringLiteral(_)
        | Token::NationalQuoteDelimitedStringLiteral(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::TripleSingleQuotedByteStringLiteral(_)
        | Token::TripleDoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_)
        | Token::TripleSingleQuotedRawStringLiteral(_)
        | Token::TripleDoubleQuotedRawStringLiteral(_) => {
            refuse("this kind of string is read differently by the engines; write a plain string in single quotes".to_owned())
        }
        _ => Ok(()),
    }
}

fn unknown_placeholder(name: &str, placeholders: &[&str]) -> String {
    if WINDOW_BOUNDS.contains(&name) && !placeholders.is_empty() {
        return format!("{name} is not known: the feature set has no windows; use $start and $stop");
    }
    match placeholders {
        [] => format!("{name}: a predicate has no placeholders"),
        known => format!("{name} is not known; the placeholders are {}", known.join(", ")),
    }
}

/// The parser says where in its message: `… at Line: 1, Column: 8`.
fn unreadable(error: ParserError) -> Rejected {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => return reject(Location::new(0, 0), "the text is nested too deeply"),
    };
    let split = text.rsplit_once(" at Line: ").and_then(|(what, at)| {
        let (line, column) = at.split_once(", Column: ")?;
        Some(reject(Location::new(line.parse().ok()?, column.parse().ok()?), format!("it cannot be read: {what}")))
    });
    split.unwrap_or_else(|| reject(Location::new(0, 0), format!("it cannot be read: {text}")))
}

/// What a query may hold. `tables` are the names of CTEs met so far: a query is visited before what uses its CTEs.
struct Rules<'a> {
    sources: &'a [&'a str],
    tables: Vec<Ident>,
    queries: bool,
}

impl Visitor for Rules<'_> {
    type Break = Rejected;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Rejected> {
        let at = query.span().start;
        if !self.queries {
            return refuse(at, "a predicate has no subqueries; use a transformation for that");
        }
        if !query.locks.is_empty() || query.for_clause.is_some() {
            return refuse(at, "FOR is not allowed: nothing is locked or formatted");
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return refuse(at, "SETTINGS and FORMAT are not allowed");
        }
        if !query.pipe_operators.is_empty() {
            return refuse(at, "pipe operators are not allowed");
        }
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        self.tables.extend(ctes.map(|cte| cte.alias.name.clone()));
        body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Rejected> {
        let at = select.select_token.0.span.start;
        if select.into.is_some() {
            return refuse(at, "SELECT INTO is not allowed; the result goes to the feature set");
        }
        let is_transform = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if word_is(alias, "using"));
        if select.projection.iter().any(is_transform) {
            return refuse(at, "TRANSFORM … USING is not allowed");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Rejected> {
        let at = factor.span().start;
        match factor {
            TableFactor::Table { args: Some(_), name, .. } => {
                refuse(start_of(name), format!("{name}(…) is not allowed in FROM; read from the sources"))
            }
            TableFactor::Table { version: Some(_), .. } => {
                refuse(at, "a version of a source is not allowed; the backfill pins it")
            }
            TableFactor::Table { name, .. } => self.check_table(name),
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } | TableFactor::UNNEST { .. } => {
                ControlFlow::Continue(())
            }
            other => refuse(at, format!("\"{other}\" is not allowed in FROM; read from the sources")),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Rejected> {
        let Expr::Function(function) = expression else { return ControlFlow::Continue(()) };
        match &function.name.0[..] {
            [name] => match name.as_ident() {
                Some(name) if CODE.iter().any(|code| name.value.eq_ignore_ascii_case(code)) => {
                    refuse(name.span.start, format!("{name} is not allowed: it runs code"))
                }
                Some(name) if READS.iter().any(|reads| name.value.eq_ignore_ascii_case(reads)) => {
                    refuse(name.span.start, format!("{name} is not allowed: it can read other files; read from the sources"))
                }
                Some(name) if name.value.eq_ignore_ascii_case("identifier") => {
                    refuse(name.span.start, format!("{name} is not allowed; write the name itself"))
                }
                Some(_) => ControlFlow::Continue(()),
                None => refuse(start_of(&function.name), format!("{} is not allowed; write the function's name", function.name)),
            },
            _ => refuse(start_of(&function.name), format!("{} is not allowed; write functions without a schema", function.name)),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Rejected> {
        match &value.value {
            Value::Placeholder(name) if !BOUNDS.contains(&name.as_str()) && !WINDOW_BOUNDS.contains(&name.as_str()) => {
                refuse(value.span.start, unknown_placeholder(name, &BOUNDS))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Rules<'_> {
    fn check_table(&self, name: &ObjectName) -> ControlFlow<Rejected> {
        let at = start_of(name);
        let known = || match self.sources {
            [] => "there are no sources".to_owned(),
            sources => format!("the sources are {}", sources.join(", ")),
        };
        match &name.0[..] {
            [part] => match part.as_ident() {
                Some(ident) if self.names(ident) => ControlFlow::Continue(()),
                _ => refuse(at, format!("{name} is not a source; {}", known())),
            },
            _ => refuse(at, format!("{name} has a schema; write the name of a source alone: {}", known())),
        }
    }

    fn names(&self, ident: &Ident) -> bool {
        let same = |name: &str, exact: bool| if exact { name == ident.value } else { name.eq_ignore_ascii_case(&ident.value) };
        match ident.quote_style {
            Some('\'') => false,
            quote => {
                let exact = quote.is_some();
                self.sources.iter().any(|source| same(source, exact)) || self.tables.iter().any(|table| same(&table.value, exact))
            }
        }
    }
}

fn body(set: &SetExpr) -> ControlFlow<Rejected> {
    match set {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
        SetExpr::SetOperation { left, right, .. } => {
            body(left)?;
            body(right)
        }
        SetExpr::Insert(statement) | SetExpr::Update(statement) | SetExpr::Delete(statement) | SetExpr::Merge(statement) => {
            refuse(
                statement.span().start,
                format!("{} is not allowed; write exactly one SELECT", sql_word(&statement.to_string())),
            )
        }
        SetExpr::Table(_) => refuse(set.span().start, "TABLE is not allowed; write SELECT * FROM a source"),
    }
}

fn word_is(ident: &Ident, word: &str) -> bool {
    ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(word)
}

fn start_of(name: &ObjectName) -> Location {
    name.span().start
}

fn refuse(at: Location, message: impl Into<String>) -> ControlFlow<Rejected> {
    ControlFlow::Break(reject(at, message))
}

#[cfg(test)]
mod tests;
