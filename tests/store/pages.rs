//! Pages of fetches.

use bytes::Bytes;
use haul::store::{Batch, Content, NewPage, PageHead};

use super::support::*;

fn page(index: u32, page: u32, first_item: u64, items: u64) -> NewPage {
    NewPage {
        id: task_id(1, index),
        page,
        first_item,
        items,
        content: Content::Inline(Bytes::from(format!("body {index} {page}"))),
        next: (page < 2).then(|| format!("next of {page}")),
    }
}

fn head(of: &NewPage, bytes: u64) -> PageHead {
    PageHead { page: of.page, first_item: of.first_item, items: of.items, bytes, next: of.next.clone() }
}

pub async fn pages_read_back<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let file = Content::File { name: "ab/cd".into(), bytes: 1 << 33 };
    let pages = vec![
        page(0, 0, 0, 2),
        NewPage { content: file.clone(), ..page(0, 1, 2, 2) },
        NewPage { content: Content::Inline(Bytes::new()), ..page(0, 2, 4, 0) },
        page(1, 0, 0, 1),
    ];
    rig.commit(Batch { pages: pages.clone(), ..Batch::default() }).await;
    let id = task_id(1, 0);
    let heads = [head(&pages[0], 8), head(&pages[1], 1 << 33), head(&pages[2], 0)];
    assert_eq!(rig.store.page_heads(id, 0, 9).await.unwrap(), heads);
    assert_eq!(rig.store.page_heads(id, 1, 1).await.unwrap(), heads[1..2]);
    assert_eq!(rig.store.last_page(id).await.unwrap().as_ref(), Some(&heads[2]));
    assert_eq!(rig.store.last_page(task_id(1, 9)).await.unwrap(), None);
    assert_eq!(rig.store.page_content(id, 0).await.unwrap(), Some(pages[0].content.clone()));
    assert_eq!(rig.store.page_content(id, 1).await.unwrap(), Some(file));
    assert_eq!(rig.store.page_content(id, 2).await.unwrap(), Some(Content::Inline(Bytes::new())));
    assert_eq!(rig.store.page_content(id, 3).await.unwrap(), None);
    rig.refuse(1, Batch { pages: vec![page(0, 1, 2, 2)], ..Batch::default() }).await;
}

pub async fn page_of_item_is_found<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let pages = vec![page(0, 0, 0, 2), page(0, 1, 2, 0), page(0, 2, 2, 3)];
    rig.commit(Batch { pages, ..Batch::default() }).await;
    for (item, expected) in [(0, 0), (1, 0), (2, 2), (4, 2), (5, 2), (u64::MAX, 2)] {
        let found = rig.store.page_of_item(task_id(1, 0), item).await.unwrap().unwrap();
        assert_eq!(found.page, expected, "item {item}");
    }
    assert_eq!(rig.store.page_of_item(task_id(1, 1), 0).await.unwrap(), None);
}
