(function () {
  "use strict";
  document.querySelectorAll("[data-tools]").forEach(function (tools) {
    var table = document.getElementById(tools.dataset.tools), body = table.tBodies[0];
    var rows = Array.from(body.rows), shown = tools.querySelector("output");
    var text = tools.querySelector("input"), runs = tools.querySelector("select");
    function filter() {
      var wanted = text.value.toLowerCase(), left = 0;
      rows.forEach(function (row) {
        var fits = row.textContent.toLowerCase().includes(wanted) && (!runs || !runs.value || row.dataset.runs === runs.value);
        row.hidden = !fits;
        left += fits;
      });
      shown.textContent = left + " of " + rows.length + " rows";
    }
    function value(row, column) {
      var data = row.cells[column].dataset.v, number = parseFloat(data);
      return data === undefined ? row.cells[column].textContent : isNaN(number) ? null : number;
    }
    function sort(head, column) {
      var down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
      rows.sort(function (a, b) {
        var x = value(a, column), y = value(b, column);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      }).forEach(function (row) { body.appendChild(row); });
      table.querySelectorAll("th[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    }
    table.querySelectorAll("thead th").forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () { sort(head, column); });
    });
    text.addEventListener("input", filter);
    if (runs) runs.addEventListener("change", filter);
    tools.hidden = false;
    filter();
  });
  document.querySelectorAll(".scroll").forEach(function (box) {
    function look() { box.classList.toggle("more", box.scrollWidth > box.clientWidth + 1); }
    if (window.ResizeObserver) new ResizeObserver(look).observe(box);
    look();
  });
  var opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (one) { one.open = true; });
  });
  window.addEventListener("afterprint", function () { opened.forEach(function (one) { one.open = false; }); });
}());
