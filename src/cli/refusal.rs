//! Says what is wrong with a command line, and what to write instead: clap finds it, the words are those of all messages.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::model::text::{message, shown};

/// A bound from which on a number is as good as unlimited, so that only the other bound of its range is named.
const LARGE: i128 = u32::MAX as i128;

/// Returns why a command line is refused. `line` is its grammar, which was built, and `typed` what was
/// written.
pub(crate) fn reason(error: &clap::Error, line: &Command, typed: &[String]) -> String {
    let at = path(error, line);
    let argument = || argument(&first(error, ContextKind::InvalidArg));
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(error, line, &at),
        ErrorKind::InvalidSubcommand => {
            let name = shown(&first(error, ContextKind::InvalidSubcommand));
            format!("`{at}` has no command `{name}`; {}", instead(error, ContextKind::SuggestedSubcommand, &at))
        }
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<String> =
                all(error, ContextKind::InvalidArg).iter().map(|it| format!("`{}`", without_brackets(it))).collect();
            format!("`{at}` needs {}; see `{at} --help`", listed(&missing, "and"))
        }
        ErrorKind::ArgumentConflict => conflict(error, &at),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => value(error, line, typed),
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues => format!("`{}` has too many values", argument()),
        ErrorKind::TooFewValues => format!("`{}` needs more values; see `{at} --help`", argument()),
        ErrorKind::InvalidUtf8 => not_text(line),
        // No grammar of ours leads here.
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

/// Returns the command that was read last, as it is typed.
fn path(error: &clap::Error, line: &Command) -> String {
    let usage = first(error, ContextKind::Usage);
    let mut path = line.get_name().to_owned();
    let mut command = line;
    for word in usage.trim_start_matches("Usage:").split_whitespace().skip(1) {
        let Some(next) = command.get_subcommands().find(|it| it.get_name() == word) else { break };
        path = format!("{path} {word}");
        command = next;
    }
    path
}

/// Says that an option or an argument is unknown.
fn unknown(error: &clap::Error, line: &Command, at: &str) -> String {
    let argument = first(error, ContextKind::InvalidArg);
    let shown = shown(&argument);
    if !argument.starts_with('-') {
        return format!("`{at}` does not take `{shown}`; see `{at} --help`");
    }
    // What stands before the command is for those that ask a server.
    if at != line.get_name() && line.get_arguments().any(|it| is_named(it, &argument)) {
        return format!("`{at}` does not take `{shown}`, which is for commands that ask a server; see `{at} --help`");
    }
    format!("`{at}` has no option `{shown}`; {}", instead(error, ContextKind::SuggestedArg, at))
}

/// Says that arguments exclude each other, or that one was given twice.
fn conflict(error: &clap::Error, at: &str) -> String {
    let other: Vec<String> = all(error, ContextKind::PriorArg).iter().map(|it| format!("`{}`", argument(it))).collect();
    let kind = if error.get(ContextKind::InvalidArg).is_some() {
        ContextKind::InvalidArg
    } else {
        ContextKind::InvalidSubcommand
    };
    let own = format!("`{}`", argument(&first(error, kind)));
    match other.as_slice() {
        [] => format!("{own} cannot be used with what else is given; see `{at} --help`"),
        [same] if *same == own => format!("{own} is given twice; give it once"),
        others => format!("{own} cannot be used together with {}; leave one of them out", listed(others, "or")),
    }
}

/// Says that a value is missing or cannot be.
fn value(error: &clap::Error, line: &Command, typed: &[String]) -> String {
    let (written, value) = (first(error, ContextKind::InvalidArg), first(error, ContextKind::InvalidValue));
    let choices: Vec<String> = all(error, ContextKind::ValidValue).iter().map(|it| format!("`{it}`")).collect();
    let argument = argument(&written);
    if value.is_empty() {
        let argument = variable(line, &written, &value, typed).unwrap_or(argument);
        return match choices.as_slice() {
            [] => format!("`{argument}` needs a value"),
            choices => format!("`{argument}` needs a value: {}", listed(choices, "or")),
        };
    }
    let source = variable(line, &written, &value, typed).unwrap_or(argument);
    if let ([only], false) = (choices.as_slice(), written.starts_with('-')) {
        let at = called(line, typed);
        return format!("`{at}` does not take `{}`, only {only} or nothing; see `{at} --help`", shown(&value));
    }
    if !choices.is_empty() {
        return format!("`{source}` is `{}`; it must be {}", shown(&value), listed(&choices, "or"));
    }
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    match error.source().and_then(|why| requirement(why, &value)) {
        Some(requirement) => format!("`{source}` is `{}`; it must be {requirement}", shown(&value)),
        None => format!("`{source}` is invalid: {}", message(&why)),
    }
}

/// Returns the command that is called, by the words that were typed.
fn called(line: &Command, typed: &[String]) -> String {
    let mut called = line.get_name().to_owned();
    let mut command = line;
    for word in typed.iter().skip(1) {
        if let Some(next) = command.get_subcommands().find(|it| it.get_name() == word) {
            called = format!("{called} {word}");
            command = next;
        }
    }
    called
}

/// Says what is not UTF-8: a variable of the environment, if one is not, else an argument.
fn not_text(line: &Command) -> String {
    let is_wrong = |name: &&str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    let commands = std::iter::once(line).chain(line.get_subcommands());
    let variables = commands.flat_map(Command::get_arguments).filter_map(|it| it.get_env()?.to_str());
    match variables.into_iter().find(is_wrong) {
        Some(name) => format!("`{name}` is not UTF-8; correct the variable"),
        None => "an argument is not UTF-8; write it in UTF-8".to_owned(),
    }
}

/// Returns the variable of the environment that has a value, where the command line does not have it.
fn variable(line: &Command, written: &str, value: &str, typed: &[String]) -> Option<String> {
    let own = line.get_arguments().filter(|it| it.to_string() == written).find_map(|it| {
        let name = it.get_env()?.to_str()?;
        let is_typed = it.get_long().is_some_and(|long| {
            let flag = format!("--{long}");
            typed
                .iter()
                .any(|word| word.strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
        });
        (!is_typed && std::env::var(name).is_ok_and(|it| it == value)).then(|| name.to_owned())
    });
    own.or_else(|| line.get_subcommands().find_map(|it| variable(it, written, value, typed)))
}

/// Returns what a value must be that is not of its type, or beyond a range; `None`: the error says so itself.
fn requirement(why: &(dyn std::error::Error + 'static), value: &str) -> Option<String> {
    let is_negative = value.parse::<i128>().is_ok_and(|number| number < 0);
    if let Some(error) = why.downcast_ref::<ParseIntError>() {
        return Some(match error.kind() {
            IntErrorKind::PosOverflow => "a smaller number".to_owned(),
            _ if is_negative => "at least 0".to_owned(),
            _ => "a whole number".to_owned(),
        });
    }
    if why.is::<ParseFloatError>() {
        return Some("a number".to_owned());
    }
    let why = why.to_string();
    if why == "value was not a boolean" {
        return Some("`true` or `false`".to_owned());
    }
    let range = why.strip_prefix(value)?.strip_prefix(" is not in ")?;
    let (least, most) = range.split_once("..")?;
    let least: i128 = least.parse().ok()?;
    let most: i128 = match most.strip_prefix('=') {
        Some(most) => most.parse().ok()?,
        None => most.parse::<i128>().ok()? - 1,
    };
    let number: i128 = value.parse().ok()?;
    Some(match (number < least, most < LARGE) {
        (_, true) => format!("from {least} to {most}"),
        (true, false) => format!("at least {least}"),
        (false, false) => format!("at most {most}"),
    })
}

/// Returns what may have been meant, or where to look.
fn instead(error: &clap::Error, suggested: ContextKind, at: &str) -> String {
    match all(error, suggested).first() {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("see `{at} --help`"),
    }
}

/// Whether an argument is written so on a command line.
fn is_named(argument: &Arg, written: &str) -> bool {
    let long = argument.get_long().is_some_and(|long| written.strip_prefix("--") == Some(long));
    let short =
        argument.get_short().is_some_and(|short| written.strip_prefix('-').is_some_and(|it| it.starts_with(short)));
    let is_local = matches!(argument.get_id().as_str(), "help" | "version");
    !is_local && (long || (short && !written.starts_with("--")))
}

/// Returns an option without its value, or the name of an argument without brackets.
fn argument(written: &str) -> String {
    if written.starts_with('-') {
        written.split([' ', '=', '[']).next().unwrap_or_default().to_owned()
    } else {
        without_brackets(written)
    }
}

fn without_brackets(written: &str) -> String {
    written.chars().filter(|letter| !"<>[].".contains(*letter)).collect()
}

/// `a`, `a or b`, `a, b or c`.
fn listed(texts: &[String], last: &str) -> String {
    match texts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

/// Returns the texts of a context of the error.
fn all(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        _ => Vec::new(),
    }
}

/// Returns the first text of a context of the error; empty for none.
fn first(error: &clap::Error, kind: ContextKind) -> String {
    all(error, kind).into_iter().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::line;

    fn refused(typed: &str) -> String {
        let words: Vec<String> = typed.split_whitespace().map(str::to_owned).collect();
        let mut grammar = line::command(100);
        let error = grammar.clone().try_get_matches_from(&words).unwrap_err();
        grammar.build();
        reason(&error, &grammar, &words)
    }

    #[test]
    fn each_mistake_is_told_with_what_to_write_instead() {
        let lines = [
            "haul lst",
            "haul frobnicate",
            "haul token bogus",
            "haul --bogus",
            "haul --serve x list",
            "haul list --serch x",
            "haul list extra",
            "haul get -o json http://a/",
            "haul get --tenant a http://a/",
            "haul top --frobnicate",
            "haul show",
            "haul list --limit -1",
            "haul list --limit many",
            "haul get --jobs 0 http://a/",
            "haul get --jobs 257 http://a/",
            "haul get -j",
            "haul cat --length 0 a b",
            "haul update a --max-concurrency 5000000000",
            "haul update a --max-concurrency 99999999999999999999",
            "haul update a --priority x",
            "haul limits --requests-per-second-per-host abc",
            "haul get --limit-rate 1x http://a/",
            "haul submit --mode x http://a/",
            "haul submit -f job.json http://a/",
            "haul submit --fetch --download http://a/",
            "haul list -o",
            "haul list -o xml",
            "haul list --output=json --output=text",
            "haul completions fishy",
            "haul serve --allow-private-networks=perhaps",
            "haul hosts zz",
            "haul wait a --timeout -1s extra",
            "haul limits --bytes-per-second 99999999999999999999",
            "haul limits --requests-per-second-per-host 1e400",
        ];
        let told: Vec<String> = lines.iter().map(|line| format!("{line}\n    {}", refused(line))).collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
