//! What is read of the contract's messages, and of a message that has every kind of number.

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MessageOptions,
};

use super::*;

fn contract(name: &str) -> MessageDescriptor {
    DescriptorPool::decode(crate::pb::FILE_DESCRIPTOR_SET).unwrap().get_message_by_name(name).unwrap()
}

/// The path of what is wrong and what is wrong with it.
fn wrong(of: &MessageDescriptor, text: &str) -> (String, String) {
    let unread = read(of, text.as_bytes(), Whose::Others).unwrap_err();
    (unread.path.to_string(), unread.what())
}

#[test]
fn a_field_is_given_once_by_whichever_of_its_names() {
    let job = contract("haul.v1.JobSpec");
    for (text, path, what) in [
        (r#"{"rate_limit": {}, "rateLimit": {}}"#, "rateLimit", "is given twice, as `rate_limit` and as `rateLimit`"),
        (
            r#"{"rateLimit": null, "rate_limit": {}}"#,
            "rate_limit",
            "is given twice, as `rateLimit` and as `rate_limit`",
        ),
        (r#"{"rateLimit": {}, "rateLimit": {}}"#, "rateLimit", "is given twice"),
        (
            r#"{"tasks": [{}, {"download": {"max_bytes": 1, "maxBytes": 1}}]}"#,
            "tasks[1].download.maxBytes",
            "is given twice, as `max_bytes` and as `maxBytes`",
        ),
        (r#"{"labels": {"a": "", "b": "", "a": ""}}"#, "labels.a", "is given twice"),
        (r#"{"labels": {"a": "", "\u0061": ""}}"#, "labels.a", "is given twice"),
        (
            r#"{"tasks": [{"fetch": {}, "download": {}}]}"#,
            "tasks[0].download",
            "may not stand beside another of `fetch` and `download`",
        ),
        (r#"{"tasks": [{"Fetch": {}}]}"#, "tasks[0].Fetch", "is unknown; the fields here are `key`, "),
    ] {
        let (found, said) = wrong(&job, text);
        assert!(found == path && said.starts_with(what), "{text}: {found} {said}");
    }
    // The keys of a map are what they are, and nothing is no value of a choice.
    let text = r#"{"labels": {"rate_limit": "a", "rateLimit": "b"}, "tasks": [{"fetch": null, "download": {}}]}"#;
    let read =
        crate::pb::JobSpec::decode(read(&job, text.as_bytes(), Whose::Others).unwrap().encode_to_vec().as_slice());
    let read = read.unwrap();
    assert_eq!((read.labels.len(), read.labels["rateLimit"].as_str()), (2, "b"));
    assert!(matches!(read.tasks[0].work, Some(crate::pb::task_spec::Work::Download(_))));
}

#[test]
fn values_are_what_they_are_or_are_refused() {
    let all = every_kind();
    let is_read = |text: &str| read(&all, text.as_bytes(), Whose::Others).is_ok();
    for good in [
        r#"{"a_enum": "ONE"}"#,
        r#"{"a_enum": 1}"#,
        r#"{"a_enum": 1e0}"#,
        r#"{"a_enum": -2147483648}"#,
        r#"{"a_double": "NaN"}"#,
        r#"{"a_double": "-Infinity"}"#,
        r#"{"a_double": "1.5e3"}"#,
        r#"{"a_float": 1}"#,
        r#"{"a_bool": true}"#,
        r#"{"a_bytes": "-_8"}"#,
        r#"{"a_bytes": "+/8="}"#,
        r#"{"a_bytes": "\u002b/8"}"#,
        r#"{"a_uint64": "\u0031"}"#,
        r#"{"many": []}"#,
    ] {
        assert!(is_read(good), "{good}");
    }
    for (text, path, what) in [
        (r#"{"a_enum": "one"}"#, "a_enum", "must be one of `NONE` and `ONE`"),
        (r#"{"a_enum": "1"}"#, "a_enum", "must be one of `NONE` and `ONE`"),
        (r#"{"a_enum": 2147483648}"#, "a_enum", "must be one of "),
        (r#"{"a_enum": 0.5}"#, "a_enum", "must be one of "),
        (r#"{"a_double": "nan"}"#, "a_double", "must be a number"),
        (r#"{"a_double": "inf"}"#, "a_double", "must be a number"),
        (r#"{"a_double": 1e400}"#, "a_double", "must be a number"),
        (r#"{"a_double": ""}"#, "a_double", "must be a number"),
        (r#"{"a_bool": "true"}"#, "a_bool", "must be true or false"),
        (r#"{"a_bool": 1}"#, "a_bool", "must be true or false"),
        (r#"{"a_bytes": "&"}"#, "a_bytes", "must be bytes in base64"),
        (r#"{"a_bytes": "+_"}"#, "a_bytes", "must be bytes in base64"),
        (r#"{"a_bytes": "\ud800"}"#, "a_bytes", "must be bytes in base64"),
        (r#"{"a_uint64": [1, {"a": 1, "a": 2}]}"#, "a_uint64", "must be a whole number from 0 to "),
        (r#"{"a_uint64": " 1"}"#, "a_uint64", "must be a whole number from 0 to "),
        (r#"{"many": [1, null]}"#, "many[1]", "must be a whole number from 0 to "),
        (r#"{"named": {"x": null}}"#, "named.x", "must be a whole number from -"),
    ] {
        let (found, said) = wrong(&all, text);
        assert!(found == path && said.starts_with(what), "{text}: {found} {said}");
    }
    for (text, path, part) in [
        (r#"{"many": {}}"#, "many", "must be a list"),
        (r#"{"named": []}"#, "named", "must be an object"),
        (r#"{"inner": 1}"#, "inner", "must be an object"),
        (r#"{"a_uint64": }"#, "a_uint64", "line 1"),
        (r#"{"a_uint64": 01}"#, "a_uint64", "line 1"),
        ("{\"a_uint64\": \"\u{1}\"}", "a_uint64", "line 1"),
    ] {
        let (found, said) = wrong(&all, text);
        assert!(found == path && said.contains(part), "{text}: {found} {said}");
    }
}

#[test]
fn documents_of_others_have_a_bound_before_they_have_memory() {
    let all = every_kind();
    let read = |text: &str, whose| read(&all, text.as_bytes(), whose).map_err(|unread| unread.what());
    let list = |item: &str, count: usize| vec![item; count].join(",");
    let many = |count| format!(r#"{{"many": [{}]}}"#, list("1", count));
    assert!(read(&many(LIST_ENTRIES_MAX), Whose::Others).is_ok());
    let long = many(LIST_ENTRIES_MAX + 1);
    assert!(read(&long, Whose::Others).unwrap_err().contains("more than 10000 entries"));
    assert!(read(&long, Whose::Own).is_ok());
    let inners = |count| format!(r#"{{"inners": [{}]}}"#, list(&many(100), count));
    assert!(read(&inners(3_900), Whose::Others).is_ok());
    assert!(read(&inners(4_000), Whose::Others).unwrap_err().contains("too many entries"));
}

#[test]
fn maps_of_the_contract_have_texts_as_keys() {
    let pool = DescriptorPool::decode(crate::pb::FILE_DESCRIPTOR_SET).unwrap();
    let maps = pool.all_messages().filter(MessageDescriptor::is_map_entry);
    let keys: Vec<Kind> = maps.map(|map| map.map_entry_key_field().kind()).collect();
    assert!(!keys.is_empty() && keys.iter().all(|kind| *kind == Kind::String), "{keys:?}");
}

/// The kinds of integers that there are.
const INTEGERS: [Type; 10] = [
    Type::Int32,
    Type::Sint32,
    Type::Sfixed32,
    Type::Uint32,
    Type::Fixed32,
    Type::Int64,
    Type::Sint64,
    Type::Sfixed64,
    Type::Uint64,
    Type::Fixed64,
];

/// A message with a field of each kind, `a_int32` and so on, lists, a map, and itself within.
fn every_kind() -> MessageDescriptor {
    let mut number = 0;
    let mut field = |name: &str, kind: Type, of: &str, label: Label| {
        number += 1;
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            label: Some(label.into()),
            r#type: Some(kind.into()),
            type_name: Some(of.to_owned()).filter(|of| !of.is_empty()),
            ..Default::default()
        }
    };
    let others = [Type::Bool, Type::Double, Type::Float, Type::Bytes];
    let mut fields: Vec<_> =
        INTEGERS.into_iter().chain(others).map(|kind| field(&named(kind), kind, "", Label::Optional)).collect();
    fields.extend([
        field("a_enum", Type::Enum, ".test.Choice", Label::Optional),
        field("many", Type::Uint32, "", Label::Repeated),
        field("inner", Type::Message, ".test.All", Label::Optional),
        field("inners", Type::Message, ".test.All", Label::Repeated),
        field("named", Type::Message, ".test.All.NamedEntry", Label::Repeated),
    ]);
    let mut number = 0;
    let mut part = |name: &str, kind: Type| {
        number += 1;
        let (name, kind) = (Some(name.to_owned()), Some(kind.into()));
        let label = Some(Label::Optional.into());
        FieldDescriptorProto { name, number: Some(number), label, r#type: kind, ..Default::default() }
    };
    let entry = DescriptorProto {
        name: Some("NamedEntry".to_owned()),
        field: vec![part("key", Type::String), part("value", Type::Int64)],
        options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let value = |name: &str, number| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        options: None,
    };
    let choice = EnumDescriptorProto {
        name: Some("Choice".to_owned()),
        value: vec![value("NONE", 0), value("ONE", 1)],
        ..Default::default()
    };
    let all =
        DescriptorProto { name: Some("All".to_owned()), field: fields, nested_type: vec![entry], ..Default::default() };
    let file = FileDescriptorProto {
        name: Some("test.proto".to_owned()),
        package: Some("test".to_owned()),
        message_type: vec![all],
        enum_type: vec![choice],
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    };
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_proto(file).unwrap();
    pool.get_message_by_name("test.All").unwrap()
}

fn named(kind: Type) -> String {
    format!("a_{}", kind.as_str_name().trim_start_matches("TYPE_").to_lowercase())
}

/// What a value of an integer field is.
fn integer_of(value: &Value) -> i128 {
    match *value {
        Value::I32(it) => it.into(),
        Value::U32(it) => it.into(),
        Value::I64(it) => it.into(),
        Value::U64(it) => it.into(),
        ref other => panic!("{other:?} is no integer"),
    }
}

fn bounds(kind: Type) -> (i128, i128) {
    match kind {
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => (i32::MIN.into(), i32::MAX.into()),
        Type::Uint32 | Type::Fixed32 => (0, u32::MAX.into()),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => (i64::MIN.into(), i64::MAX.into()),
        _ => (0, u64::MAX.into()),
    }
}

/// Numbers near the bounds of kinds, and any others.
fn numbers() -> impl Strategy<Value = i128> {
    let near = prop::sample::select(vec![
        0_i128,
        1 << 31,
        1 << 32,
        1 << 53,
        1 << 63,
        1 << 64,
        -(1 << 31),
        -(1 << 53),
        -(1 << 63),
    ]);
    prop_oneof![
        (near, -3_i128..3).prop_map(|(near, by)| near + by),
        (any::<i128>(), 28_u32..127).prop_map(|(it, by)| it >> by)
    ]
}

/// Texts of one integer: plain, or with its point moved and an exponent that moves it back; with an error behind it, perhaps.
fn texts() -> impl Strategy<Value = (String, Option<i128>)> {
    (numbers(), 0_usize..25, any::<bool>(), any::<bool>()).prop_map(|(number, behind, is_moved, is_broken)| {
        let sign = if number < 0 { "-" } else { "" };
        let digits = format!("{:0>width$}", number.unsigned_abs(), width = behind + 1);
        let (whole, fraction) = digits.split_at(digits.len() - behind);
        // A digit so far behind that no double has it.
        let end = if is_broken { "00000000000000000000001" } else { "0" };
        match (is_moved, is_broken) {
            (false, false) => (number.to_string(), Some(number)),
            (false, true) => (format!("{number}.{end}"), None),
            (true, _) => (format!("{sign}{whole}.{fraction}{end}e{behind}"), Some(number).filter(|_| !is_broken)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_048, ..ProptestConfig::default() })]

    #[test]
    fn a_number_is_exactly_the_integer_that_its_text_says_or_is_refused(
        (text, meant) in texts(),
        at in 0..INTEGERS.len(),
        is_quoted: bool,
        depth in 0_usize..4,
    ) {
        let kind = INTEGERS[at];
        let (least, most) = bounds(kind);
        let expected = meant.filter(|it| (least..=most).contains(it));
        let value = if is_quoted { format!("\"{text}\"") } else { text.clone() };
        let mut document = format!("{{\"{}\": {value}}}", named(kind));
        let mut path = named(kind);
        for _ in 0..depth {
            document = format!("{{\"inners\": [{{}}, {document}]}}");
            path = format!("inners[1].{path}");
        }
        match (read(&every_kind(), document.as_bytes(), Whose::Others), expected) {
            (Ok(mut message), Some(expected)) => {
                for _ in 0..depth {
                    let inner = message.get_field_by_name("inners").unwrap().as_list().unwrap()[1].as_message().unwrap().clone();
                    message = inner;
                }
                prop_assert_eq!(integer_of(&message.get_field_by_name(&named(kind)).unwrap()), expected, "{}", document);
            }
            (Err(unread), None) => {
                prop_assert_eq!(unread.path.to_string(), path);
                let words = format!("must be a whole number from {least} to {most}");
                prop_assert_eq!(unread.what(), words);
            }
            (read, expected) => {
                // A message of a type that holds itself cannot be printed.
                let read = read.map(|it| it.encode_to_vec()).map_err(|it| it.what());
                prop_assert!(false, "{document}: {expected:?} {read:?}");
            }
        }
    }

    #[test]
    fn items_of_lists_values_of_maps_and_enums_are_exact_too((text, meant) in texts(), is_quoted: bool) {
        let all = every_kind();
        let value = if is_quoted { format!("\"{text}\"") } else { text };
        let read = |document: String| read(&all, document.as_bytes(), Whose::Others).ok();
        let item = read(format!("{{\"many\": [7, {value}]}}"))
            .map(|it| integer_of(&it.get_field_by_name("many").unwrap().as_list().unwrap()[1]));
        prop_assert_eq!(item, meant.filter(|it| u32::try_from(*it).is_ok()));
        let entry = read(format!("{{\"named\": {{\"x\": {value}}}}}"))
            .map(|it| integer_of(&it.get_field_by_name("named").unwrap().as_map().unwrap()[&MapKey::String("x".to_owned())]));
        prop_assert_eq!(entry, meant.filter(|it| i64::try_from(*it).is_ok()));
        // The name of an enum's value stands in quotes, and its number does not.
        let choice = read(format!("{{\"a_enum\": {value}}}")).map(|it| it.get_field_by_name("a_enum").unwrap().as_enum_number().unwrap());
        prop_assert_eq!(choice, meant.filter(|_| !is_quoted).and_then(|it| i32::try_from(it).ok()));
    }
}
