# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium: a relay over real observers serves it, and a person looks, filters, and comes back after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from flows.proto import flow_pb2 as pb
from flows.text import RULE_LABEL
from tests.integration.kvstore.private_etcd import eventually
from tests.integration.relay.page_world import PageWorld, flow, http, shop

CHROMIUM = "/usr/bin/chromium"
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 800}
VIEWS = ("map", "flows", "services", "mesh")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # no user namespace of its own: the tests run as root
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[PageWorld]:
    world = PageWorld(tmp_path)
    await world.start()
    await eventually(lambda: [link.state for link in world.observers.rows()] == [1, 1], "observers connected")
    yield world
    await world.stop()


@pytest.fixture
async def page(browser: Browser, world: PageWorld) -> AsyncIterator[Page]:
    """A page that has asked nobody but the relay, and run into no error."""
    context = await browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    page = await context.new_page()
    asked: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda told: errors.append(told.text) if "Content Security" in told.text else None)
    yield page
    await context.close()
    assert errors == []
    assert asked <= {world.url.removesuffix("/ui/")}


async def test_flows_are_shown_and_the_next_ones_as_they_come(page: Page, world: PageWorld) -> None:
    world.say(*shop())
    await page.goto(world.url)
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    await expect(page.locator(".card")).to_have_count(8)
    await expect(page.locator(".link")).to_have_count(9)
    dropped = page.locator(".link.DROPPED")
    await expect(dropped).to_have_count(2)
    style = await dropped.first.locator(".line").evaluate(
        "e => [getComputedStyle(e).strokeDasharray, getComputedStyle(e).stroke]"
    )
    assert style == ["6px, 4px", "rgb(192, 43, 43)"]
    catalog = page.get_by_role("button", name="catalog, shop · 1 pod, cluster south")
    await expect(catalog).to_contain_text("GET /items/9 404")
    world.say(flow("north/shop/cart", "south/shop/catalog", port=8080), node=1)
    await expect(page.get_by_role("button", name="cart, shop · 1 pod, cluster north")).to_be_visible()
    await page.get_by_role("link", name="Flows").click()
    await expect(page.locator(".row").first).to_contain_text("shop/cart")
    world.say(flow("north/shop/late", "south/shop/catalog", port=8080))
    await expect(page.locator(".row").first).to_contain_text("shop/late")


async def test_filters_are_the_relays_and_stand_in_the_address(page: Page, world: PageWorld) -> None:
    world.say(*shop())
    await page.goto(f"{world.url}#/flows")
    await expect(page.locator(".row")).to_have_count(13)
    await page.fill("#filter-status", "5+")
    await expect(page.locator(".row")).to_have_count(1)
    await page.get_by_role("button", name="Clear").click()
    await page.select_option("#filter-verdict", "DROPPED")
    await expect(page.locator(".row")).to_have_count(2)
    await page.fill("#filter-cluster", "south")
    await expect(page.locator(".row")).to_have_count(2)
    await expect(page).to_have_url(f"{world.url}#/flows?verdict=DROPPED&cluster=south")
    world.say(
        flow("north/shop/web", "north/shop/orders"), flow("south/shop/web", "north/shop/orders", verdict=pb.DROPPED)
    )
    await expect(page.locator(".row")).to_have_count(3)
    await page.reload()
    await expect(page.locator(".row")).to_have_count(3)


async def test_what_a_staged_policy_would_drop_is_found_and_told(page: Page, world: PageWorld) -> None:
    judged = flow("north/shop/web", "north/shop/orders")
    judged.staged.verdict = pb.DROPPED
    judged.staged.policy.labels.append(f"{RULE_LABEL}cnp/shop/orders default deny")
    world.say(*shop(), judged)
    await page.goto(f"{world.url}#/flows?staged=DROPPED")
    await expect(page.locator(".row")).to_have_count(1)
    await expect(page.locator(".row .verdict").first).to_have_text("FORWARDED staged: DROPPED")
    await page.locator(".row").click()
    await expect(page.locator(".why")).to_contain_text(
        "With the staged policies in force it would be denied by cnp/shop/orders default deny."
    )


async def test_a_relay_that_is_started_again_is_followed_from_the_last_flow(page: Page, world: PageWorld) -> None:
    world.say(*shop())
    await page.goto(f"{world.url}#/flows")
    await expect(page.locator(".row")).to_have_count(13)
    await world.stop_web()
    await expect(page.locator("#live")).to_have_attribute("data-state", "lost")
    await expect(page.locator("#notices")).to_contain_text("does not answer")
    world.say(flow("north/shop/meanwhile", "north/shop/orders"))
    await world.start_web()
    await expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=15_000)
    await expect(page.locator(".row")).to_have_count(14)
    await expect(page.locator(".row").first).to_contain_text("shop/meanwhile")
    await expect(page.locator("#notices")).to_be_empty()


async def test_what_a_cluster_says_stays_text(page: Page, world: PageWorld) -> None:
    hostile = "<script>window.taken=1</script><img src=x onerror=window.taken=1>"
    bad = flow("north/shop/web", "south/shop/catalog", verdict=pb.DROPPED, rule=hostile, labels=(f"k8s:x={hostile}",))
    bad.source.pod_name = bad.source.labels[0] = hostile
    bad.source.namespace, bad.Summary = '"><b>', hostile
    bad.source.cluster_name = "javascript:window.taken=1"
    bad.source.labels.append(f"k8s:app={hostile}")
    world.say(bad)
    await page.goto(world.url)
    await expect(page.locator(".card")).to_have_count(2)
    await page.goto(f"{world.url}#/flows")
    await page.locator(".row").first.click()
    await expect(page.locator("#detail")).to_contain_text(hostile)
    await expect(page.locator("#detail .why")).to_contain_text("Denied by <script>")
    await expect(page.locator("#view script, #detail script, #view img, #detail img, #view b:has(*)")).to_have_count(0)
    assert await page.evaluate("window.taken") is None


async def test_the_side_panel_says_why_and_everything_goes_by_keyboard(page: Page, world: PageWorld) -> None:
    world.say(*shop())
    await page.goto(f"{world.url}#/flows?verdict=DROPPED")
    await expect(page.locator(".row")).to_have_count(2)
    await page.get_by_role("grid").focus()
    await page.keyboard.press("ArrowDown")
    panel = page.get_by_role("complementary", name="Flow")
    await expect(panel).to_contain_text("Denied by CiliumNetworkPolicy shop/db ingressDeny[0]")
    await page.keyboard.press("ArrowDown")
    await expect(panel).to_contain_text("No rule allows it. Policies select shop/postgres")
    await expect(panel).to_contain_text("It goes from cluster south to cluster north.")
    await expect(panel).to_contain_text(
        "clustermesh explain policy --from shop/catalog-5d9c-7xk --to shop/postgres-5d9c-8xk --port 5432/TCP"
    )
    await expect(panel).to_contain_text('"drop_reason_desc": "POLICY_DENIED"')
    await expect(panel).to_contain_text("kind: CiliumNetworkPolicy")
    await page.keyboard.press("Escape")
    await expect(panel).to_be_hidden()
    await page.keyboard.press("1")
    await page.get_by_role("button", name="dropped: report to postgres, 5432/TCP, 1 flows").focus()
    await page.keyboard.press("Enter")
    await expect(panel).to_contain_text("report → postgres")


async def test_five_thousand_flows_are_all_taken(page: Page, world: PageWorld) -> None:
    await page.goto(f"{world.url}#/flows")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    many = [flow(f"north/load/a{n % 40}", "south/load/b", port=1000 + n % 7) for n in range(1000)]
    for n in range(1, 6):  # a ring of these nodes has room for 1,023
        world.say(*many)
        await expect(page.locator(".counts")).to_contain_text(f"{1000 * n:,} flows shown", timeout=20_000)
    await expect(page.locator(".counts")).not_to_contain_text("lost")
    # what is out of sight costs no element
    assert await page.locator(".row").count() < 80
    await page.get_by_role("grid").focus()
    await page.keyboard.press("End")
    await expect(page.locator("[aria-selected=true]")).to_have_attribute("aria-rowindex", "5001")
    await page.keyboard.press("1")
    await expect(page.locator(".card")).to_have_count(41)


async def test_an_empty_view_says_why(page: Page, world: PageWorld) -> None:
    await page.goto(f"{world.url}#/flows")
    await expect(page.locator(".empty")).to_contain_text("No flows yet")
    world.say(*shop())
    await expect(page.locator(".row")).to_have_count(13)
    await page.fill("#filter-pod", "nobody/here")
    await expect(page.locator(".empty")).to_contain_text("No flow matches the filters")
    await page.fill("#filter-status", "not-a-number")
    await expect(page.locator(".empty")).to_contain_text("This filter means nothing")
    await expect(page.locator(".empty")).to_contain_text("http_status_code")
    for node in world.nodes:
        await node.stop()
    await page.goto("about:blank")
    await eventually(lambda: 1 not in [link.state for link in world.observers.rows()], "observers gone")
    await page.goto(f"{world.url}#/flows")
    await expect(page.locator(".empty")).to_contain_text("No node answers")
    await expect(page.locator(".empty")).to_contain_text("north/n1, north/n2")
    await expect(page.locator("#notices")).to_contain_text("No flows of north/n1")


async def test_mesh_and_services_are_as_the_programs_say(page: Page, world: PageWorld) -> None:
    await page.goto(f"{world.url}#/mesh")
    west = page.get_by_role("article").filter(has_text="west")
    await expect(west.last).to_contain_text("no route to host")
    await expect(west.last).to_contain_text("valid for 3 days")
    await expect(page.get_by_role("article").first).to_contain_text("local-north (2 sessions), remote-south")
    await expect(page.get_by_role("region", name="Nodes")).to_contain_text("north/n2")
    await page.get_by_role("link", name="Services").click()
    candidates = page.get_by_role("region", name="Candidates of 172.20.3.4:80/TCP").get_by_role("row")
    await expect(candidates).to_have_count(4)
    await expect(candidates.nth(2)).to_contain_text("50 %")
    await expect(candidates.nth(3)).to_contain_text("its cluster is disconnected")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_serious_keeps_anybody_out(page: Page, world: PageWorld, scheme: str) -> None:
    """axe-core's rules in each view and with a flow open, and no view is wider than its window."""
    world.say(*shop(), http("north/shop/web", "north/shop/orders", "/x", 200))
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    await page.goto(world.url)
    await page.evaluate(AXE.read_text())
    found = {}
    for view in (*VIEWS, "flows?pod=nobody", "flows?verdict=DROPPED"):
        await page.evaluate("view => { location.hash = `#/${view}` }", view)
        await expect(page.locator(".card, .row, .panel, .empty").locator("visible=true").first).to_be_visible()
        if view.endswith("DROPPED"):
            await page.locator(".row").first.click()
            await expect(page.locator("#detail pre").last).to_be_visible()
        for size in (WIDE, NARROW, {"width": 2560, "height": 1300}):
            await page.set_viewport_size(size)  # type: ignore[arg-type]
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (view, size)
        await page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        result = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for each in result["violations"]:
            if each["impact"] in ("serious", "critical"):
                found[view, each["id"]] = [node["html"][:160] for node in each["nodes"]][:3]
    assert found == {}


async def test_a_browser_is_told_to_run_the_pages_own_files_only(page: Page, world: PageWorld) -> None:
    answer = await page.goto(world.url)
    assert answer is not None
    policy = (await answer.all_headers())["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("files/app.js", "state", "flow?uuid=1"):
        headers = (await page.request.get(f"{world.url}{path}")).headers
        assert headers["x-content-type-options"] == "nosniff", path
    with pytest.raises(Exception, match="TrustedHTML"):
        await page.evaluate("document.body.innerHTML = '<i>x</i>'")
