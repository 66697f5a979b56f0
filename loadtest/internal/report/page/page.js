// Shows the values under the pointer. Everything is read back from the pictures.
(() => {
  const readout = document.getElementById('readout');
  // Pieces of a line from M to M, as points.
  const pieces = path => path.pieces ??= path.getAttribute('d').split('M').filter(Boolean)
    .map(p => p.split('L').map(q => q.split(' ').map(Number)));
  // The place on a line at x, or the nearest end that is not far.
  const on = (path, x) => {
    let best;
    for (const p of pieces(path)) {
      const i = p.findIndex(q => q[0] >= x);
      if (i > 0) {
        const [a, b] = [p[i - 1], p[i]], s = b[0] > a[0] ? (x - a[0]) / (b[0] - a[0]) : 1;
        return [x, a[1] + s * (b[1] - a[1])];
      }
      const end = i < 0 ? p.at(-1) : p[0];
      if (Math.abs(end[0] - x) < 8 && (!best || Math.abs(end[0] - x) < Math.abs(best[0] - x))) best = end;
    }
    return best;
  };
  const value = (axis, log, p) => {
    const [lo, hi, a, b] = axis, s = (p - a) / (b - a);
    return log ? lo * (hi / lo) ** s : lo + s * (hi - lo);
  };
  const text = v => Math.abs(v) >= 100 ? Math.round(v).toLocaleString('en') : +v.toPrecision(3) + '';
  const hide = svg => { readout.hidden = true; svg.querySelector('.cursor')?.remove(); };
  for (const svg of document.querySelectorAll('figure > svg')) {
    const axis = n => svg.dataset[n].split(' ').map(Number);
    const ax = axis('x'), ay = axis('y'), log = svg.dataset.log === 'true';
    const label = svg.querySelectorAll('text.label'), unit = label[1].textContent.split(',')[0];
    const shares = !label[0].textContent.startsWith('time');
    svg.addEventListener('pointerleave', () => hide(svg));
    svg.addEventListener('pointermove', e => {
      const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const rows = [];
      let at;
      for (const path of svg.querySelectorAll('path[data-name]')) {
        const p = on(path, x);
        if (!p) continue;
        at ??= p[0];
        rows.push(path.dataset.name + '  ' + text(value(ay, log, p[1])) + ' ' + unit);
      }
      hide(svg);
      if (!rows.length) return;
      const v = value(ax, false, at);
      rows.unshift(shares ? (100 - 100 * 10 ** -v).toFixed(Math.max(0, Math.ceil(v) - 1)) + ' %' : 'at ' + (+v.toFixed(1)) + ' s');
      readout.textContent = rows.join('\n');
      readout.hidden = false;
      const r = readout.getBoundingClientRect();
      readout.style.left = Math.min(e.clientX + 14, innerWidth - r.width - 8) + 'px';
      readout.style.top = Math.max(8, e.clientY - r.height - 12) + 'px';
      const line = document.createElementNS(svg.namespaceURI, 'line');
      line.setAttribute('class', 'cursor');
      for (const [k, n] of [['x1', at], ['x2', at], ['y1', ay[3]], ['y2', ay[2]]]) line.setAttribute(k, n);
      svg.append(line);
    });
  }
})();
