//! `haul check`: what it names, and what it says of keys.

use crate::support::server::{Server, haul};
use crate::support::spec::{fetch, job};

fn check(data: &str) -> (i32, String) {
    let output = haul(&["check", "--data-dir", data]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_named_as_people_have_them_and_keys_are_looked_at() {
    let mut server = Server::start().await;
    let id = server
        .submit(job(vec![fetch("http://127.0.0.1:1/a".to_owned()), fetch("http://127.0.0.1:1/b".to_owned())]))
        .await;
    server.ended(&id).await;
    assert!(server.terminate().success());
    let data = server.data();
    let text = data.to_str().unwrap();
    assert_eq!(check(text), (0, String::new()));

    let key = data.join("haul.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::write(&key, "zz").unwrap();
    let (code, said) = check(text);
    assert!(code == 1 && said.contains("the root key in the file") && said.contains("cannot be read"), "{said}");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    let (code, said) = check(text);
    assert!(code == 1 && said.contains("is not the one of the database"), "{said}");
    std::fs::remove_file(&key).unwrap();
    let (code, said) = check(text);
    assert!(code == 0 && said.contains("the root key is not in the data directory and was not checked"), "{said}");
    std::fs::write(&key, kept).unwrap();

    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", data.join("haul.db").display())).await.unwrap();
    sqlx::query("DELETE FROM tasks WHERE id & 1 = 1").execute(&pool).await.unwrap();
    sqlx::query("UPDATE tasks SET lane = 7").execute(&pool).await.unwrap();
    pool.close().await;
    let (code, said) = check(text);
    assert!(code == 1 && said.contains(&format!("task {id}/0 has no lane")), "{said}");
    assert!(said.contains("put back a backup"), "{said}");
}
