//! No text is taken for a token that was not made as one, and each token is read as what it was made for only.
#![no_main]

use haul::model::host::Host;
use haul::model::ids::JobId;
use haul::store::page_token::PageTokens;
use haul::vault::{Key, Vault};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|input: (&str, &[u8], u32, u128)| {
    let (token, filter, index, id) = input;
    let key = Key::random();
    let tokens = PageTokens::new(Arc::new(Vault::new(vec![(1, key.clone())], &key).unwrap()));
    assert!(tokens.read_job(filter, token).is_err());
    assert!(tokens.read_task(filter, token).is_err());
    assert!(tokens.read_host(filter, token).is_err());
    let (job, host) = (JobId(uuid::Uuid::from_u128(id)), Host::new(token));
    let (of_job, of_task, of_host) =
        (tokens.after_job(filter, job), tokens.from_task(filter, index), tokens.after_host(filter, &host));
    assert_eq!(tokens.read_job(filter, &of_job), Ok(job));
    assert_eq!(tokens.read_task(filter, &of_task), Ok(index));
    assert_eq!(tokens.read_host(filter, &of_host), Ok(host));
    assert!(tokens.read_task(filter, &of_job).is_err() && tokens.read_job(filter, &of_task).is_err());
    let other = [filter, b"x"].concat();
    assert!(tokens.read_job(&other, &of_job).is_err());
});
